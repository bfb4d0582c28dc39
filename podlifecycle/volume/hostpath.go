package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// hostPath makes the path if its type says so, and checks that it is of its type.
// Source: Kubernetes v1.37.0 pkg/volume/hostpath.
func hostPath(source *corev1.HostPathVolumeSource) error {
	path := source.Path
	if !filepath.IsAbs(path) {
		return fmt.Errorf("path %q is not absolute: %w", path, ErrHostPath)
	}
	want := corev1.HostPathUnset
	if source.Type != nil {
		want = *source.Type
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch want {
		case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
			// Runtimes make a directory of what is missing under no type.
			return os.MkdirAll(path, 0o755)
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return f.Close()
		}
		return fmt.Errorf("%s is not there, %s is wanted: %w", path, want, ErrHostPath)
	}
	if err != nil {
		return err
	}
	mode := info.Mode()
	ok := true
	switch want {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode.Type() == fs.ModeSocket
	case corev1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode.Type() == fs.ModeDevice
	}
	if !ok {
		return fmt.Errorf("%s is not a %s: %w", path, want, ErrHostPath)
	}
	return nil
}
