package oci_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func directory(path string) tar.Header {
	return tar.Header{Name: path, Typeflag: tar.TypeDir, Mode: 0o755}
}
func regular(path string) tar.Header {
	return tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o644}
}
func link(path, to string) tar.Header {
	return tar.Header{Name: path, Typeflag: tar.TypeSymlink, Linkname: to}
}

// imageOf pulls an image of one layer with these entries, on top of the image of
// the test program if so asked. A regular file's content is its name.
func (e *env) imageOf(onProg bool, entries ...tar.Header) string {
	e.tb.Helper()
	id, err := e.makeImage(onProg, entries)
	if err != nil {
		e.tb.Fatalf("make image: %v", err)
	}
	return id
}

func (e *env) makeImage(onProg bool, entries []tar.Header) (string, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			return "", err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				return "", err
			}
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return "", err
	}
	var under v1.Image = empty.Image
	if onProg {
		ref, err := name.ParseReference(e.images.Prog)
		if err != nil {
			return "", err
		}
		if under, err = remote.Image(ref); err != nil {
			return "", err
		}
	}
	img, err := mutate.AppendLayers(under, layer)
	if err != nil {
		return "", err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	config = config.DeepCopy()
	config.OS = "linux"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return "", err
	}
	registry, _, _ := strings.Cut(e.images.Prog, "/")
	tag := fmt.Sprintf("%s/test/made:%d", registry, pods.Add(1))
	ref, err := name.ParseReference(tag)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img); err != nil {
		return "", err
	}
	return e.pull(tag), nil
}
