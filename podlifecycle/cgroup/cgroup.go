package cgroup

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

var (
	// ErrNotSupported: there are no cgroups here.
	ErrNotSupported = errors.New("not supported")
	// ErrInvalid: the path is not absolute and clean, or the root, which is everybody's.
	ErrInvalid = errors.New("is not an absolute, clean path below the root")
	// ErrOwn: this process is in the cgroup.
	ErrOwn = errors.New("this process is in it")
)

// Manager makes and removes cgroups. It keeps no state and may be used
// concurrently, for one path by one caller at a time.
type Manager struct{}

// New gives a Manager; it does no I/O.
func New() *Manager { return &Manager{} }

// check wants /a/b: nothing may come out of the hierarchy, nor be all of it.
func check(name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name || name == "/" || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q %w", name, ErrInvalid)
	}
	return nil
}
