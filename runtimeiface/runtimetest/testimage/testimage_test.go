package testimage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

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

// The program does natively what runtimetest.Prog plays and what the kernel's
// cases look at.
func TestProgram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is for linux")
	}
	program, err := testimage.Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "prog")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		steps          []string
		code           int
		stdout, stderr string
	}{
		{"steps", []string{"print", "a", "b", ";", "eprint", "c", ";", "exit", "42", ";", "print", "no"}, 42, "a b\n", "c\n"},
		{"arguments", []string{"args", "", " x "}, 0, "\n x \n", ""},
		{"environment", []string{"env", "GREETING", ";", "env", "NOTHING"}, 1, "hello\n", ""},
		{"bytes", []string{"bytes", "00ff0a", ";", "fill", "3"}, 0, "\x00\xff\nxxx", ""},
		{"lines", []string{"lines", "2", "1ms"}, 0, "line 0\nline 1\n", ""},
		{"standard input", []string{"stdin"}, 0, "typed", ""},
		{"own signal", []string{"kill", "15"}, -1, "", ""},
		{"files", []string{"write", "f", "1", ";", "append", "f", "2", ";", "cat", "f", ";", "print", "", ";", "ls", "sub"}, 0, "12\nx\n", ""},
		{"missing file", []string{"cat", "nothing"}, 1, "", "cat: open nothing: no such file or directory\n"},
		{"a long line", []string{"line", "20"}, 0, "000000000000000.0000\n", ""},
		{"children", []string{"run", "print", "a", ",", "exit", "3", ";", "run", "kill", "9"}, 0, "a\nexit 3\nsignal 9\n", ""},
		{"orphan", []string{"orphan", "write", "orphan", "x", ";", "await", "orphan", ";", "print", "there"}, 0, "there\n", ""},
		{"directories and links", []string{"mkdir", "new", ";", "ls", "new", ";", "link", "link"}, 0, "elsewhere\n", ""},
		{"no terminal", []string{"tty", ";", "sizes"}, 1, "false\n", "sizes: inappropriate ioctl for device\n"},
		{"open", []string{"open", "prog", ";", "open", "nothing"}, 1, "", "open: open nothing: no such file or directory\n"},
		{"try", []string{"try", "dancing"}, 1, "", "try: no such call: dancing\n"},
		{"unknown step", []string{"dance"}, 1, "", "dance: no such step\n"},
		{"work", []string{"burn", "1ms", ";", "hold", "4096", ";", "cwd"}, 0, dir + "\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.MkdirAll(filepath.Join(dir, "sub", "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(filepath.Join(dir, "new"))
			if _, err := os.Lstat(filepath.Join(dir, "link")); err != nil {
				if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
			}
			cmd, out, errs := command(t, path, c.steps...)
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d", got, c.code)
			}
			if out.String() != c.stdout || errs.String() != c.stderr {
				t.Errorf("output %q and %q, want %q and %q", out, errs, c.stdout, c.stderr)
			}
		})
	}
}

func TestProgramAndSignals(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is for linux")
	}
	program, err := testimage.Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		steps []string
		code  int
	}{
		{"plain", []string{"print", "ready", ";", "forever"}, 130},
		{"trapped", []string{"trap", "7", "1ms", ";", "print", "ready", ";", "forever"}, 7},
		{"ignored", []string{"ignore", ";", "print", "ready", ";", "sleep", "300ms", ";", "exit", "9"}, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, c.steps...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d", got, c.code)
			}
		})
	}
}

// Servers answer as their steps say.
func TestProgramServes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is for linux")
	}
	program, err := testimage.Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	for verb, want := range map[string]string{"serve": "hello", "collect": "hello", "greet": "welcome"} {
		t.Run(verb, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := listener.Addr().String()
			_ = listener.Close()
			cmd, out, _ := command(t, path, verb, address, "welcome")
			cmd.Stdout = nil
			said, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			if _, err := io.CopyN(out, said, int64(len("serving\n"))); err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func command(t *testing.T, path string, steps ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	t.Helper()
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.CommandContext(t.Context(), path, steps...)
	cmd.Dir = filepath.Dir(path)
	cmd.Env = []string{"GREETING=hello"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("typed"), out, errs
	return cmd, out, errs
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
