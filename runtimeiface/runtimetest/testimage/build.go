package testimage

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// The program is embedded so that it can be built wherever a test runs, also
// outside of this module.
//
//go:embed prog/*.go
var source embed.FS

// programEnv names a file with the built program, for machines without Go.
const programEnv = "NODEKIT_TEST_PROGRAM"

// Program gives the static helper program for linux on this architecture.
// The first call builds it from folder prog, or reads the file that the
// environment variable NODEKIT_TEST_PROGRAM names.
func Program(ctx context.Context) ([]byte, error) {
	built.Lock()
	defer built.Unlock()
	if built.program == nil {
		program, err := build(ctx)
		if err != nil {
			return nil, fmt.Errorf("build test program: %w", err)
		}
		built.program = program
	}
	return built.program, nil
}

var built struct {
	sync.Mutex
	program []byte
}

func build(ctx context.Context) ([]byte, error) {
	if file := os.Getenv(programEnv); file != "" {
		return os.ReadFile(file)
	}
	dir, err := os.MkdirTemp("", "testimage-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files, err := fs.Glob(source, "prog/*.go")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		data, err := source.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module prog\n\ngo 1.24\n"), 0o600); err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "prog.out")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOFLAGS=", "GOWORK=off", "GO111MODULE=on")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
}
