package image_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// benchStore has an image of three layers, 50 MiB together, to pull.
func benchStore(b *testing.B) (*image.Store, string) {
	kerneltest.Require(b, kerneltest.Root, kerneltest.Overlay)
	RegisterTestingT(b)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	b.Cleanup(server.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/web:1")
	if err != nil {
		b.Fatal(err)
	}
	img := imageOf(randomLayer(1, 20<<20), randomLayer(2, 20<<20), randomLayer(3, 10<<20))
	if err := remote.Write(ref, img); err != nil {
		b.Fatal(err)
	}
	root, err := os.MkdirTemp("", "nodekit-image-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	s, err := image.Open(image.Config{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s, ref.String()
}

func BenchmarkPull50MiBOf3Layers(b *testing.B) {
	s, ref := benchStore(b)
	b.SetBytes(50 << 20)
	for b.Loop() {
		img, err := s.Pull(context.Background(), ref, image.PullOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(img.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkPullOfPresentImage(b *testing.B) {
	s, ref := benchStore(b)
	for b.Loop() {
		if _, err := s.Pull(context.Background(), ref, image.PullOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMountAndUnmount(b *testing.B) {
	s, ref := benchStore(b)
	img, err := s.Pull(context.Background(), ref, image.PullOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var mounting time.Duration
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprint("c", n)
		start := time.Now()
		if _, err := s.Mount(context.Background(), id, img.ID, image.MountOptions{}); err != nil {
			b.Fatal(err)
		}
		mounting += time.Since(start)
		if err := s.Unmount(id); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(mounting.Nanoseconds())/float64(n), "mount-ns/op")
}
