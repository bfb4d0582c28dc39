package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOptions is what mount(2) takes: a page, its last byte zero.
const maxOptions = 4095

// mount makes the container's directories, lists it and mounts it, each only
// if that is not so already.
func (s *Store) mount(id string, r *record) (string, error) {
	dir := s.path("containers", id)
	rootfs := filepath.Join(dir, "rootfs")
	if mounted, err := isMount(rootfs); err == nil && mounted {
		return rootfs, nil
	}
	if err := mkdir(dir); err != nil {
		return "", err
	}
	// No fsync: what power failure loses, it also unmounts.
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	tmp := filepath.Join(dir, "mount.json.new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, filepath.Join(dir, "mount.json")); err != nil {
		return "", err
	}
	for _, sub := range []string{"rootfs", "upper", "work"} {
		if err := mkdir(filepath.Join(dir, sub)); err != nil {
			return "", err
		}
	}
	return rootfs, s.mountOverlay(dir, rootfs, r)
}

func mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (s *Store) mountOverlay(dir, rootfs string, r *record) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	lowers := s.lowers(r.Layers)
	// The root directory of an image may have an owner and a mode.
	if len(lowers) > 0 && !r.ReadOnly {
		if err := copyRoot(lowers[0], upper); err != nil {
			return err
		}
	}
	var flags uintptr
	if r.ReadOnly {
		// Without an upper, overlay wants two lowers: these stay empty.
		lowers = append(lowers, work, upper)
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
	if err != nil {
		return fmt.Errorf("overlay of %d layers: %w", len(lowers), err)
	}
	return nil
}

// lowers gives the directories of an image, the highest first as overlay wants
// them. Of a layer that comes twice the higher one stands: it has all that the
// lower one has. Nothing is below an opaque root.
func (s *Store) lowers(ids []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dirs []string
	seen := map[string]bool{}
	for i := len(ids) - 1; i >= 0; i-- {
		id := ids[i]
		if seen[id] {
			continue
		}
		seen[id] = true
		dirs = append(dirs, s.path("layers", dirName(id), "fs"))
		if s.layers[id].OpaqueRoot {
			break
		}
	}
	return dirs
}

// copyRoot gives dir the owner and mode that the root of the layer has.
func copyRoot(layer, dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(layer, &st); err != nil {
		return wrap("stat layer", err)
	}
	if err := unix.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return wrap("chown root", err)
	}
	return wrap("chmod root", unix.Chmod(dir, st.Mode&0o7777))
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

// detach unmounts whatever is mounted on dir/rootfs. Detached: a process that
// still has a file open there must not keep the container from going.
func detach(dir string) error {
	rootfs := filepath.Join(dir, "rootfs")
	for {
		mounted, err := isMount(rootfs)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !mounted {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.Unmount(rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return wrap("umount", err)
		}
	}
}
