package volume

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// dataLink points at the directory that holds the content now.
	dataLink = "..data"
	// newLink becomes dataLink.
	newLink = "..data_tmp"
	// versionPattern names directories of content.
	versionPattern = "..v*"
)

// writeAtomic makes dir hold files, so that whoever reads sees the old set or
// the new one and never parts of both, and tells whether it had to. Whatever an
// interrupted call left is completed or removed. The layout is that of
// Kubernetes v1.37.0 pkg/volume/util/atomic_writer.go:
//
//	app.conf -> ..data/app.conf
//	..data   -> ..v123
//	..v123/app.conf
func writeAtomic(dir string, files map[string]contentFile, group *int64) (changed bool, err error) {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current == "" || !holds(filepath.Join(dir, current), files) {
		version, err := writeVersion(dir, files, group)
		if err != nil {
			return false, err
		}
		// Left over from a call that was killed.
		if err := os.Remove(filepath.Join(dir, newLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err := os.Symlink(version, filepath.Join(dir, newLink)); err != nil {
			return false, err
		}
		if err := os.Rename(filepath.Join(dir, newLink), filepath.Join(dir, dataLink)); err != nil {
			return false, err
		}
		current, changed = version, true
	}
	return changed, tidy(dir, current, files)
}

// holds tells whether the directory has exactly these files.
func holds(dir string, files map[string]contentFile) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[filepath.ToSlash(name)]
		if !ok {
			return fs.ErrInvalid
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, want.data) {
			return fs.ErrInvalid
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

func writeVersion(dir string, files map[string]contentFile, group *int64) (string, error) {
	version, err := os.MkdirTemp(dir, versionPattern)
	if err != nil {
		return "", err
	}
	if err := fillVersion(version, files, group); err != nil {
		return "", errors.Join(err, os.RemoveAll(version))
	}
	return filepath.Base(version), nil
}

func fillVersion(version string, files map[string]contentFile, group *int64) error {
	for name, file := range files {
		path := filepath.Join(version, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, file.data, 0o600); err != nil {
			return err
		}
		mode := file.mode
		if group != nil {
			mode |= 0o440
			if err := os.Lchown(path, -1, int(*group)); err != nil {
				return err
			}
		}
		// Not before the data, and in spite of the umask.
		if err := os.Chmod(path, fileMode(mode)); err != nil {
			return err
		}
	}
	return filepath.WalkDir(version, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		mode := uint32(0o755)
		if group != nil {
			mode |= 0o2000
			if err := os.Lchown(path, -1, int(*group)); err != nil {
				return err
			}
		}
		return os.Chmod(path, fileMode(mode))
	})
}

// tidy makes the links that are seen, and removes those and versions that are
// of no use any more.
func tidy(dir, current string, files map[string]contentFile) error {
	var wanted []string
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains(wanted, top) {
			wanted = append(wanted, top)
		}
	}
	for _, top := range wanted {
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		ours := entry.Type() == fs.ModeSymlink || strings.HasPrefix(name, "..")
		if !ours || name == dataLink || name == current || slices.Contains(wanted, name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
