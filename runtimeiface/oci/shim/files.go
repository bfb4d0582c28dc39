package shim

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

var errNotRegular = errors.New("log path is not a regular file")

// openBeneath opens a log for appending. Whatever lies below dir, also a
// symbolic link that a pod put there, nothing outside is opened.
func openBeneath(dir, path string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	if parent := filepath.Dir(path); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return nil, err
		}
	}
	file, err := root.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// WriteFile replaces dir/name by data: wholly or not at all, also when power
// fails.
func WriteFile(dir, name string, data []byte) error {
	tmp := filepath.Join(dir, "."+name+".tmp")
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return SyncDir(dir)
}

// writeSeen is WriteFile that does not wait: whoever looks sees all of data from
// now on. That it outlasts a loss of power is sure when the function given, which
// is to be called, has returned nil. Of a loss of power before, a part of the file
// may be left: so it is for records of which a broken one counts as none.
func writeSeen(dir, name string, data []byte) (func() error, error) {
	tmp := filepath.Join(dir, "."+name+".tmp")
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = file.Write(data); err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(tmp)
		return nil, err
	}
	return func() error { return errors.Join(file.Sync(), file.Close(), SyncDir(dir)) }, nil
}

// WriteNew is WriteFile for a directory that was just made, with that
// directory itself. That it outlasts a loss of power is sure when the function
// given has returned nil; it waits. Of a loss of power before, a part of the file
// may be left: so it is for records of which a broken one counts as none.
func WriteNew(dir, name string, data []byte) (func() error, error) {
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = file.Write(data); err != nil {
		_ = file.Close()
		return nil, err
	}
	lasting := sync.OnceValue(func() error {
		return errors.Join(file.Sync(), file.Close(), SyncDir(dir), SyncDir(filepath.Dir(dir)))
	})
	go func() { _ = lasting() }()
	return lasting, nil
}

// mark makes an empty file: whoever looks sees it from now on. That it outlasts
// a loss of power is sure when the function given has returned nil; it waits.
func mark(dir, name string) (func() error, error) {
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	lasting := sync.OnceValue(func() error { return SyncDir(dir) })
	go func() { _ = lasting() }()
	return lasting, nil
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
