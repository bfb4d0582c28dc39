// Package demoimage makes the quickstart's images from one program and serves
// them from a registry on loopback, so that the quickstart pulls real images on
// a machine that can reach none.
package demoimage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Tags of the demo image; both run, and their IDs differ, so that editing one
// into the other in a manifest is an image change.
var tags = []string{"1", "2"}

// Registry serves the demo images.
type Registry struct {
	listener net.Listener
	server   *http.Server
}

// Open listens on addr, which must be a loopback address, and pushes
// demo:1 and demo:2 made of the program at path.
func Open(ctx context.Context, addr, path string) (*Registry, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("registry address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("registry address %q: not a loopback address", addr)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("demo program: %w", err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{listener: listener, server: &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
	}}
	go func() { _ = r.server.Serve(listener) }()
	for _, tag := range tags {
		if err := r.push(ctx, tag, program); err != nil {
			return nil, errors.Join(fmt.Errorf("push demo:%s: %w", tag, err), r.Close())
		}
	}
	return r, nil
}

// Close ends the registry.
func (r *Registry) Close() error { return r.server.Close() }

func (r *Registry) push(ctx context.Context, tag string, program []byte) error {
	ref, err := name.ParseReference(fmt.Sprintf("%s/demo:%s", r.listener.Addr(), tag), name.Insecure)
	if err != nil {
		return err
	}
	image, err := build(tag, program)
	if err != nil {
		return err
	}
	return remote.Write(ref, image, remote.WithContext(ctx))
}

func build(tag string, program []byte) (v1.Image, error) {
	layer, err := layerOf([]tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "data/", Typeflag: tar.TypeDir, Mode: 0o777},
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "bin/demo", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644},
	}, map[string][]byte{
		"bin/demo":   program,
		"etc/passwd": []byte("root:x:0:0::/:\ndemo:x:65532:65532::/:\n"),
		"etc/group":  []byte("root:x:0:\ndemo:x:65532:\n"),
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{
		Entrypoint: []string{"/bin/demo"},
		Cmd:        []string{"sleep"},
		User:       "65532:65532",
		WorkingDir: "/",
		Labels:     map[string]string{"dev.nodekit.demo.tag": tag},
	}
	return mutate.ConfigFile(image, file)
}

func layerOf(headers []tar.Header, contents map[string][]byte) (v1.Layer, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range headers {
		header.Size = int64(len(contents[header.Name]))
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(contents[header.Name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	data := buffer.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}
