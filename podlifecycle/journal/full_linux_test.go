package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/journal"
)

// On a full disk nothing is forgotten: what could not be written is held, told
// as an error, and written once there is room.
func TestFullDisk(t *testing.T) { onDisk(t, "64k", fillDisk) }

// What is put when the disk has just become full is durable all the same, and the
// room for that is kept anew once there is some.
func TestSpareRoom(t *testing.T) { onDisk(t, "256k", useSpare) }

// onDisk runs f with a small disk mounted on dir.
func onDisk(t *testing.T, size string, f func(dir string) error) {
	kerneltest.Require(t, kerneltest.Root)
	dir := t.TempDir()
	done := make(chan error)
	go func() { // in a thread with a mount of its own, which ends with it
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)); err != nil {
			done <- fmt.Errorf("mount: %w", err)
			return
		}
		done <- f(dir)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func useSpare(dir string) error {
	path, ballast := filepath.Join(dir, "journal"), filepath.Join(dir, "ballast")
	j, _, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		return err
	}
	want := map[string]string{"first": strings.Repeat("a", 20<<10)}
	if err := errors.Join(j.Put("first", []byte(want["first"])), j.Sync()); err != nil {
		return err
	}
	for _, key := range []string{"second", "third"} {
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("the disk is not full: %w", err)
		}
		want[key] = strings.Repeat("b", 10<<10)
		if err := errors.Join(j.Put(key, []byte(want[key])), j.Sync()); err != nil {
			return fmt.Errorf("put %s on a full disk: %w", key, err)
		}
		again, found, err := journal.Open(journal.Config{Path: path})
		if err != nil {
			return err
		}
		if got := content(again); !maps.Equal(got, want) || found.Lost+found.Torn != 0 {
			return fmt.Errorf("after a crash %d keys, %+v", len(got), found)
		}
		// There is room again, and so the next time too.
		if err := errors.Join(again.Close(), os.Remove(ballast), j.Close()); err != nil {
			return err
		}
		if j, _, err = journal.Open(journal.Config{Path: path}); err != nil {
			return err
		}
	}
	return j.Close()
}

func fillDisk(dir string) error {
	path, ballast := filepath.Join(dir, "journal"), filepath.Join(dir, "ballast")
	j, _, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		return err
	}
	if err := errors.Join(j.Put("first", []byte("kept")), j.Sync()); err != nil {
		return err
	}
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	value := bytes.Repeat([]byte("x"), 8<<10)
	if err := errors.Join(j.Put("second", value), j.Sync()); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("put on a full disk: %w", err)
	}
	want := map[string]string{"first": "kept", "second": string(value)}
	if got := content(j); !maps.Equal(got, want) {
		return fmt.Errorf("held %d keys", len(got))
	}
	// A crash now loses the second, and no more.
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	again, found, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		return fmt.Errorf("open on a full disk: %w", err)
	}
	if value, _ := again.Get("first"); string(value) != "kept" || found.Lost != 0 {
		return fmt.Errorf("a crash on a full disk: %q, %+v", value, found)
	}
	if err := again.Close(); err != nil {
		return err
	}
	// Damage on top of that holds it up as little.
	damaged := filepath.Join(dir, "damaged")
	text[len(text)-1] ^= 1
	if err := errors.Join(os.Remove(ballast), os.WriteFile(damaged, append(text, text...), 0o600)); err != nil {
		return err
	}
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	again, found, err = journal.Open(journal.Config{Path: damaged})
	if err != nil || found.Lost == 0 || !errors.Is(found.Err, unix.ENOSPC) {
		return fmt.Errorf("open of damage on a full disk: %+v, %w", found, err)
	}
	if err := again.Close(); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("close without room: %w", err)
	}
	if err := errors.Join(os.Remove(ballast), j.Sync(), j.Put("third", []byte("!")), j.Close()); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	want["third"] = "!"
	again, found, err = journal.Open(journal.Config{Path: path})
	if err != nil {
		return err
	}
	if got := content(again); !maps.Equal(got, want) || found.Lost+found.Torn != 0 {
		return fmt.Errorf("after all %d keys, %+v", len(got), found)
	}
	return again.Close()
}
