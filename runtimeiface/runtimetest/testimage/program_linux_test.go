package testimage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// The program does natively what runtimetest.Prog plays and what the kernel's
// cases look at.
func TestProgram(t *testing.T) {
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
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
