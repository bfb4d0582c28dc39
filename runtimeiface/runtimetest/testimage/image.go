package testimage

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// file is one entry of a layer; without mode a directory, or a symbolic link.
type file struct {
	name string
	mode int64
	data []byte
	link string
	uid  int
}

const (
	passwd = "root:x:0:0:root:/:/prog\napp:x:1000:1000:app:/work:/prog\n"
	group  = "root:x:0:\napp:x:1000:\nextra:x:1001:app\n"
)

// base is the image of the program, told "forever" if nothing else.
func base(program []byte) (v1.Image, error) {
	return build1(empty.Image, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}},
		file{name: "prog", mode: 0o755, data: program},
		file{name: "etc/"},
		file{name: "etc/passwd", mode: 0o644, data: []byte(passwd)},
		file{name: "etc/group", mode: 0o644, data: []byte(group)},
		file{name: "tmp/"},
		file{name: "work/"},
		file{name: "layers/"},
		file{name: "layers/kept", mode: 0o644, data: []byte("lower\n")},
		file{name: "layers/changed", mode: 0o644, data: []byte("lower\n")},
		file{name: "layers/removed", mode: 0o644, data: []byte("lower\n")},
		file{name: "layers/opaque/"},
		file{name: "layers/opaque/lower", mode: 0o644, data: []byte("lower\n")},
		file{name: "plain", mode: 0o644, data: []byte("not a program\n")},
	)
}

// configured stands on base and sets what an image can set.
func configured(under v1.Image) (v1.Image, error) {
	return build1(under, v1.Config{
		Entrypoint: []string{"/prog"}, Cmd: []string{"print", "from", "image", ";", "forever"},
		Env: []string{"FROM_IMAGE=image", "FROM_BOTH=image"}, WorkingDir: "/work", User: "app", StopSignal: "SIGQUIT",
	},
		file{name: "layers/changed", mode: 0o644, data: []byte("upper\n")},
		file{name: "layers/.wh.removed", mode: 0o644},
		file{name: "layers/opaque/"},
		file{name: "layers/opaque/.wh..wh..opq", mode: 0o644},
		file{name: "layers/opaque/upper", mode: 0o644, data: []byte("upper\n")},
	)
}

// spare differs from base by a file.
func spare(under v1.Image) (v1.Image, error) {
	return build1(under, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}},
		file{name: "spare", mode: 0o644, data: []byte("spare\n")})
}

// multi differs from base by a file.
func multi(under v1.Image) (v1.Image, error) {
	return build1(under, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}},
		file{name: "multi", mode: 0o644, data: []byte("multi\n")})
}

// broken has a layer of its own, to be served wrongly.
func broken(under v1.Image, name string) (v1.Image, error) {
	data := make([]byte, 256<<10)
	_, _ = rand.Read(data) // never fails; not to be compressed
	return build1(under, v1.Config{Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}},
		file{name: name, mode: 0o644, data: data})
}

// volume is not to be run but to be mounted.
func volume() (v1.Image, error) {
	return build1(empty.Image, v1.Config{},
		file{name: "hello", mode: 0o644, data: []byte("volume\n")},
		file{name: "dir/"},
		file{name: "dir/inner", mode: 0o644, data: []byte("inner\n")},
		file{name: "owned", mode: 0o640, data: []byte("owned\n"), uid: 1000},
		file{name: "out", link: "../../../../../../etc"},
	)
}

// index lists an image, if any, for this platform after those for others.
func index(img v1.Image) (v1.ImageIndex, error) {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range []v1.Platform{{OS: "linux", Architecture: "s390x"}, {OS: "linux", Architecture: "mips64le"}} {
		other, err := build1(empty.Image, v1.Config{Entrypoint: []string{"/" + p.Architecture}},
			file{name: p.Architecture, mode: 0o755, data: []byte("no program\n")})
		if err != nil {
			return nil, err
		}
		cf, err := other.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		cf = cf.DeepCopy()
		cf.Architecture = p.Architecture
		if other, err = mutate.ConfigFile(other, cf); err != nil {
			return nil, fmt.Errorf("configure: %w", err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &p}})
	}
	if img != nil {
		here := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &here}})
	}
	return idx, nil
}

func build1(under v1.Image, config v1.Config, files ...file) (v1.Image, error) {
	data, err := pack(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	under = mutate.ConfigMediaType(mutate.MediaType(under, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(under, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(img, cf)
}

func pack(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, Uid: f.uid, Gid: f.uid}
		if f.link != "" {
			header.Typeflag, header.Mode, header.Linkname = tar.TypeSymlink, 0o777, f.link
		} else if f.mode == 0 {
			header.Typeflag, header.Mode = tar.TypeDir, 0o755
			if f.name == "tmp/" || f.name == "work/" {
				header.Mode = 0o1777
			}
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	return buf.Bytes(), nil
}
