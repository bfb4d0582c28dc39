package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// longestName is what ext4 and others allow.
const longestName = 255

// LinkName is the name under which /var/log/containers has a container's log,
// POD_NAMESPACE_CONTAINER-ID.log, cut so that a file system takes it.
func LinkName(pod, namespace, container, id string) string {
	const suffix = ".log"
	name := fmt.Sprintf("%s_%s_%s-%s", pod, namespace, container, id)
	return name[:min(len(name), longestName-len(suffix))] + suffix
}

// Link makes dir/name a symbolic link to target, in one step; dir is made if it
// is not there. A file that is no link is an error and stays.
func Link(dir, name, target string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("link log: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("link log: %w", err)
	}
	defer root.Close()
	if have, err := root.Readlink(name); err == nil && have == target {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link log: %w", err)
	}
	err = root.Symlink(target, name)
	if errors.Is(err, fs.ErrExist) {
		// It leads elsewhere: two containers never share an ID.
		if err = root.Remove(name); err == nil {
			err = root.Symlink(target, name)
		}
	}
	if err != nil {
		return fmt.Errorf("link log: %w", err)
	}
	return nil
}

// Prune removes the links in dir that lead below logRoot to nothing, and tells
// which. Links of others and files are left alone. No such directory: nil.
func Prune(dir, logRoot string) (removed []string, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("prune links: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("prune links: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if entry.Type() != fs.ModeSymlink {
			continue
		}
		target, err := root.Readlink(entry.Name())
		if err != nil || !strings.HasPrefix(target, filepath.Clean(logRoot)+string(filepath.Separator)) {
			continue
		}
		if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := root.Remove(entry.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("prune links: %w", err))
			continue
		}
		removed = append(removed, entry.Name())
	}
	return removed, errors.Join(errs...)
}
