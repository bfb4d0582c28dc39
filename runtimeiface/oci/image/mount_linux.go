package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOptions is what mount(2) takes: a page, its last byte zero.
const maxOptions = 4095

// mount makes the container's directories, lists it and mounts it, each only
// if that is not so already.
func (s *Store) mount(id string, r *record, userns *os.File) (string, error) {
	dir := s.path("containers", id)
	rootfs := filepath.Join(dir, "rootfs")
	if mounted, err := isMount(rootfs); err == nil && mounted {
		return rootfs, nil
	}
	if err := mkdir(dir); err != nil {
		return "", err
	}
	// No fsync, no rename: what a kill or power failure loses here was not
	// mounted yet, or no longer.
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "mount.json"), data, 0o600); err != nil {
		return "", err
	}
	for _, sub := range []string{"rootfs", "upper", "work"} {
		if err := mkdir(filepath.Join(dir, sub)); err != nil {
			return "", err
		}
	}
	stack, err := s.stack(r.Layers), error(nil)
	if userns != nil {
		stack, err = mapStack(dir, stack, userns)
		defer func() { _ = dropMapped(dir) }() // a mount that stays goes with the container
	}
	if err != nil {
		return "", err
	}
	err = s.mountOverlay(dir, rootfs, stack, r.ReadOnly)
	if userns != nil && errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: overlay on layers with mapped IDs needs Linux 5.19: %w", ErrNotSupported, err)
	}
	return rootfs, err
}

func mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (s *Store) mountOverlay(dir, rootfs string, stack []lower, readOnly bool) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := dressImplied(stack, upper); err != nil {
		return err
	}
	lowers := make([]string, len(stack), len(stack)+2)
	for i, l := range stack {
		lowers[i] = l.dir
	}
	var flags uintptr
	if readOnly {
		// Without an upper, overlay wants two lowers: work stays empty.
		lowers = append(append([]string{upper}, lowers...), work)
		upper, work = "", ""
		flags = unix.MS_RDONLY
	}
	if len(lowers) == 0 {
		empty := filepath.Join(dir, "empty")
		if err := mkdir(empty); err != nil {
			return err
		}
		lowers = append(lowers, empty)
	}
	options := overlayOptions(lowers, upper, work)
	if len(options) > maxOptions || needsEscape(s.cfg.Root) {
		files, byFD, err := openAll(append(lowers, upper, work))
		defer closeAll(files)
		if err != nil {
			return err
		}
		n := len(lowers)
		options = overlayOptions(byFD[:n], byFD[n], byFD[n+1])
	}
	err := unix.Mount("overlay", rootfs, "overlay", flags, options)
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: the kernel has no overlay file system", ErrNotSupported)
	}
	if errors.Is(err, unix.EINVAL) && onOverlay(s.cfg.Root) {
		return fmt.Errorf("%w: %s is on an overlay itself, which cannot be written through another", ErrNotSupported, s.cfg.Root)
	}
	if err != nil {
		return fmt.Errorf("overlay of %d layers: %w", len(lowers), err)
	}
	return nil
}

func onOverlay(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// lower is one directory of a stack.
type lower struct {
	dir     string
	implied []string // sorted
}

// stack gives the directories of an image, the highest first as overlay wants
// them. Of a layer that comes twice the higher one stands: it has all that the
// lower one has. Nothing is below an opaque root.
func (s *Store) stack(ids []string) []lower {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stack []lower
	seen := map[string]bool{}
	for _, id := range slices.Backward(ids) {
		if seen[id] {
			continue
		}
		seen[id] = true
		l := s.layers[id]
		stack = append(stack, lower{s.path("layers", dirName(id), "fs"), l.Implied})
		if l.OpaqueRoot {
			break
		}
	}
	return stack
}

func overlayOptions(lowers []string, upper, work string) string {
	options := "lowerdir=" + strings.Join(lowers, ":")
	if upper != "" {
		options += ",upperdir=" + upper + ",workdir=" + work
	}
	return options
}

// needsEscape: overlay splits its options at these, and its rules for escaping
// them have changed between kernels.
func needsEscape(path string) bool { return strings.ContainsAny(path, `:,\`) }

// openAll names directories by descriptors: short, and nothing to escape.
func openAll(dirs []string) ([]*os.File, []string, error) {
	var files []*os.File
	names := make([]string, len(dirs))
	for i, dir := range dirs {
		if dir == "" {
			continue
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return files, nil, fmt.Errorf("open %s: %w", dir, err)
		}
		files = append(files, os.NewFile(uintptr(fd), dir))
		names[i] = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	return files, names, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// isMount tells whether something is mounted on path: an overlay is a device
// of its own.
func isMount(path string) (bool, error) {
	var here, up unix.Stat_t
	if err := unix.Lstat(path, &here); err != nil {
		return false, err
	}
	if err := unix.Lstat(filepath.Dir(path), &up); err != nil {
		return false, err
	}
	return here.Dev != up.Dev, nil
}

// detach unmounts whatever is mounted on path. Detached: a process that still
// has a file open there must not keep the container from going.
func detach(path string) error {
	for {
		mounted, err := isMount(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !mounted {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return wrap("umount", err)
		}
	}
}
