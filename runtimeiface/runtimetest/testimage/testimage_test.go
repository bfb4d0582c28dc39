package testimage_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

func TestImagesAreServedWhole(t *testing.T) {
	images := testimage.Serve(t)
	for ref, want := range map[string]struct {
		layers int
		config v1.Config
	}{
		images.Prog:       {1, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}}},
		images.Spare:      {2, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}}},
		images.Configured: {2, v1.Config{User: "app", WorkingDir: "/work", StopSignal: "SIGQUIT"}},
	} {
		img := pull(t, ref, authn.Anonymous)
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := len(cf.RootFS.DiffIDs); got != want.layers {
			t.Errorf("%s has %d layers, want %d", ref, got, want.layers)
		}
		if cf.OS != "linux" || cf.Architecture != runtime.GOARCH {
			t.Errorf("%s is for %s/%s", ref, cf.OS, cf.Architecture)
		}
		if cf.Config.User != want.config.User || cf.Config.WorkingDir != want.config.WorkingDir || cf.Config.StopSignal != want.config.StopSignal {
			t.Errorf("%s is configured as %+v", ref, cf.Config)
		}
	}
	if id(t, pull(t, images.Spare, authn.Anonymous)) != id(t, pull(t, images.SpareAlias, authn.Anonymous)) {
		t.Error("Spare and SpareAlias are two images")
	}
	if id(t, pull(t, images.Spare, authn.Anonymous)) == id(t, pull(t, images.Prog, authn.Anonymous)) {
		t.Error("Spare and Prog are one image")
	}
}

func TestPrivateWantsItsCredentials(t *testing.T) {
	images := testimage.Serve(t)
	pull(t, images.Private, &authn.Basic{Username: images.PrivateAuth.Username, Password: images.PrivateAuth.Password})
	for who, auth := range map[string]authn.Authenticator{
		"nobody": authn.Anonymous, "a stranger": &authn.Basic{Username: "user", Password: "wrong"},
	} {
		_, err := remote.Image(reference(t, images.Private), remote.WithAuth(auth))
		var refused *transport.Error
		if !errors.As(err, &refused) || refused.StatusCode != 401 {
			t.Errorf("pull as %s: %v", who, err)
		}
	}
}

func TestMissingAndUnreachable(t *testing.T) {
	images := testimage.Serve(t)
	_, err := remote.Image(reference(t, images.Missing))
	var refused *transport.Error
	if !errors.As(err, &refused) || refused.StatusCode != 404 {
		t.Errorf("pull of the missing image: %v", err)
	}
	if _, err = remote.Image(reference(t, images.Unreachable)); err == nil || errors.As(err, &refused) {
		t.Errorf("pull of the unreachable image: %v", err)
	}
}

func TestIndexes(t *testing.T) {
	images := testimage.Serve(t)
	if err := validate.Image(pull(t, images.MultiArch, authn.Anonymous)); err != nil {
		t.Errorf("image of this platform: %v", err)
	}
	for ref, want := range map[string]int{images.MultiArch: 3, images.OtherPlatform: 2} {
		index, err := remote.Index(reference(t, ref))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		here := 0
		for _, m := range manifest.Manifests {
			if m.Platform.Architecture == runtime.GOARCH {
				here++
			}
		}
		if len(manifest.Manifests) != want || here != want-2 {
			t.Errorf("%s has %d manifests, %d of this platform", ref, len(manifest.Manifests), here)
		}
	}
}

func TestOddManifestsAreServedAsTheyAre(t *testing.T) {
	images := testimage.Serve(t)
	for ref, want := range map[string]string{
		images.Schema1:     "application/vnd.docker.distribution.manifest.v1+prettyjws",
		images.UnknownType: "application/vnd.example.unknown.v9+json",
	} {
		got, err := remote.Get(reference(t, ref))
		if err != nil {
			t.Fatal(err)
		}
		if string(got.MediaType) != want {
			t.Errorf("%s is a %s", ref, got.MediaType)
		}
	}
}

func TestBrokenLayersAreBroken(t *testing.T) {
	images := testimage.Serve(t)
	for _, ref := range []string{images.Truncated, images.Corrupt} {
		img := pull(t, ref, authn.Anonymous)
		if err := validate.Image(img); err == nil {
			t.Errorf("%s is whole", ref)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Layer(layers[0]); err != nil {
			t.Errorf("the lower layer of %s: %v", ref, err)
		}
	}
}

func TestVolumeHoldsFiles(t *testing.T) {
	layers, err := pull(t, testimage.Serve(t).Volume, authn.Anonymous).Layers()
	if err != nil {
		t.Fatal(err)
	}
	flat, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = flat.Close() }()
	got := map[string]string{}
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.TrimSuffix(h.Name, "/")] = fmt.Sprint(h.Uid, h.Linkname, string(data))
	}
	want := map[string]string{"hello": "0volume\n", "dir": "0", "dir/inner": "0inner\n", "owned": "1000owned\n", "out": "0../../../../../../etc"}
	if !maps.Equal(got, want) {
		t.Errorf("files are %q", got)
	}
}

// The flattened files are those that a runtime with a right overlay shows.
func TestUpperLayerChangesLower(t *testing.T) {
	images := testimage.Serve(t)
	flat := mutate.Extract(pull(t, images.Configured, authn.Anonymous))
	defer func() { _ = flat.Close() }()
	files := map[string]string{}
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
	if files["layers/kept"] != "lower\n" || files["layers/changed"] != "upper\n" || files["layers/opaque/upper"] != "upper\n" {
		t.Errorf("files are %q", files)
	}
	if _, there := files["layers/removed"]; there {
		t.Error("the removed file is there")
	}
}

func reference(t *testing.T, ref string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func pull(t *testing.T, ref string, auth authn.Authenticator) v1.Image {
	t.Helper()
	img, err := remote.Image(reference(t, ref), remote.WithAuth(auth))
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img
}

func id(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}
