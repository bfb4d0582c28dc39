package journal_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/journal"
)

const diskSize = 8 << 20

// A disk that gives errors for a time costs nothing of what was put meanwhile: it is
// told as an error, held, and durable once the disk is well. The disk is a loop
// device that becomes shorter than its file system.
func TestBrokenDisk(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Loop)
	onDisk(t, "32m", breakDisk)
}

func breakDisk(dir string) (err error) {
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, make([]byte, diskSize), 0o600), os.Mkdir(point, 0o700)); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext2", "-q", "-F", image).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext2: %w: %s", err, out)
	}
	loop, err := attach(image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0), loop.Close()) }()
	if err := unix.Mount(loop.Name(), point, "ext2", 0, "errors=continue"); err != nil {
		return fmt.Errorf("mount %s: %w", loop.Name(), err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(point, 0)) }()
	resize := func(size int64) error {
		return errors.Join(os.Truncate(image, size), unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0))
	}

	path := filepath.Join(point, "journal")
	j, _, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		return err
	}
	want := map[string]string{"before": "the disk broke", "while": "it was broken", "also": "then"}
	if err := errors.Join(j.Put("before", []byte(want["before"])), j.Sync(), resize(4096)); err != nil {
		return err
	}
	for _, key := range []string{"while", "also"} {
		if err := errors.Join(j.Put(key, []byte(want[key])), j.Sync()); !errors.Is(err, unix.EIO) {
			return fmt.Errorf("put %q on a broken disk: %w", key, err)
		}
	}
	if got := content(j); !maps.Equal(got, want) {
		return fmt.Errorf("held %v", got)
	}
	if err := errors.Join(resize(diskSize), j.Sync()); err != nil {
		return fmt.Errorf("once the disk is well: %w", err)
	}
	again, found, err := journal.Open(journal.Config{Path: path}) // as after a crash
	if err != nil {
		return err
	}
	if got := content(again); !maps.Equal(got, want) || found.Lost+found.Torn != 0 {
		return fmt.Errorf("after all %v, %+v", got, found)
	}
	return errors.Join(again.Close(), j.Close())
}

// attach gives a loop device of a file; another may take a free one first.
func attach(image string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for range 100 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("every loop device is taken")
}
