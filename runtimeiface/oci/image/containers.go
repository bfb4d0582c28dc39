package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// mappedDir holds, while a root is mounted, its layers as a user namespace
// sees them.
const mappedDir = "mapped"

// A record is mount.json: what a container's root file system is made of. It
// is written before anything is mounted; a directory in containers/ whose
// record is unreadable still counts as a container, of an unknown image.
type record struct {
	Image    string   `json:"image"`
	Layers   []string `json:"layers"` // the lowest first
	ReadOnly bool     `json:"readOnly,omitempty"`
	// Mapped: what is written has the IDs of a user namespace.
	Mapped bool `json:"mapped,omitempty"`
}

var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func checkContainerID(id string) error {
	if !containerID.MatchString(id) {
		return fmt.Errorf("container ID %q is not of letters, digits, '_', '.' and '-', at most 128", id)
	}
	return nil
}

// Mounted gives the IDs of containers that have, or may have, a root file
// system or a part of one, sorted.
func (s *Store) Mounted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.containers))
}

// Reap unmounts and removes the root file systems of containers that known
// does not know, and gives their IDs: what a killed agent left.
func (s *Store) Reap(known func(containerID string) bool) ([]string, error) {
	var gone []string
	var errs []error
	for _, id := range s.Mounted() {
		if known(id) {
			continue
		}
		if err := s.Unmount(id); err != nil {
			errs = append(errs, err)
			continue
		}
		s.cfg.Logger.Info("root file system of an unknown container removed", "container", id)
		gone = append(gone, id)
	}
	return gone, errors.Join(errs...)
}

// Mount makes the root file system of a container, from the image and a
// writable layer of its own, and gives its path. A container that has one of
// the same image keeps it, with what was written to it, also across a restart
// of the machine. ErrNotFound for an unknown image, ErrInUse for a container
// with another image, ErrNotSupported without overlay.
func (s *Store) Mount(ctx context.Context, containerID, imageID string, opts MountOptions) (string, error) {
	if err := checkContainerID(containerID); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	defer s.busy.lock(containerID)()
	r, fresh, err := s.claim(containerID, imageID, opts)
	if err != nil {
		return "", fmt.Errorf("mount root of container %s: %w", containerID, err)
	}
	s.touch(r.Image)
	rootfs, err := s.mount(containerID, r, opts.UserNamespace)
	if err != nil {
		err = fmt.Errorf("mount root of container %s: %w", containerID, err)
		if fresh {
			err = errors.Join(err, s.unmount(containerID))
		}
		return "", err
	}
	return rootfs, nil
}

// claim records that the container has the image, before anything is on disk,
// so that the image cannot be removed from under it.
func (s *Store) claim(id, imageID string, opts MountOptions) (*record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, errClosed
	}
	img, err := s.find(imageID)
	if err != nil {
		return nil, false, err
	}
	old := s.containers[id]
	if old != nil && old.Image != "" {
		if old.Image != img.ID || old.ReadOnly != opts.ReadOnly || old.Mapped != (opts.UserNamespace != nil) {
			return nil, false, fmt.Errorf("%w: the container has %s", ErrInUse, old.Image)
		}
		return old, false, nil
	}
	r := &record{Image: img.ID, Layers: slices.Clone(img.Layers), ReadOnly: opts.ReadOnly, Mapped: opts.UserNamespace != nil}
	s.containers[id] = r
	return r, true, nil
}

// ProbeUserNamespace tells whether Mount can serve a user namespace: nil, or
// ErrNotSupported with what lacks, or another error if that cannot be told now.
// It mounts an empty root for a moment.
func (s *Store) ProbeUserNamespace(userns *os.File) error {
	const id = "userns-probe" // known to nobody: a kill leaves it to Reap
	defer s.busy.lock(id)()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	s.containers[id] = &record{}
	s.mu.Unlock()
	_, err := s.mount(id, &record{ReadOnly: true, Mapped: true}, userns)
	return errors.Join(err, s.unmount(id))
}

// Unmount unmounts the root file system of a container and removes what was
// written to it. A container that has none is no error.
func (s *Store) Unmount(containerID string) error {
	if err := checkContainerID(containerID); err != nil {
		return err
	}
	defer s.busy.lock(containerID)()
	s.mu.Lock()
	r, ok := s.containers[containerID]
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	if !ok {
		return nil
	}
	// Before the image can be collected.
	s.touch(r.Image)
	if err := s.unmount(containerID); err != nil {
		return fmt.Errorf("unmount root of container %s: %w", containerID, err)
	}
	return nil
}

// unmount: the directory leaves containers/ in one step once nothing is
// mounted there, so that a kill leaves either a container or leftovers.
func (s *Store) unmount(id string) error {
	dir := s.path("containers", id)
	for _, name := range []string{"rootfs", mappedDir} {
		if err := detach(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	tmp, err := s.discard(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	// Most containers leave these empty, and then this is four times as fast
	// as RemoveAll, which sees to all else.
	for _, name := range []string{"mount.json", "rootfs", "upper", "work/work", "work", ""} {
		if os.Remove(filepath.Join(tmp, name)) != nil {
			return os.RemoveAll(tmp)
		}
	}
	return nil
}

// ContainerUsage is the disk space of what a container has written. It walks
// the writable layer: cheap for most containers, not free for millions of
// files. ErrNotFound for an unknown container.
func (s *Store) ContainerUsage(ctx context.Context, containerID string) (Usage, error) {
	s.mu.Lock()
	r, ok := s.containers[containerID]
	s.mu.Unlock()
	if !ok {
		return Usage{}, fmt.Errorf("usage of container %q: %w", containerID, ErrNotFound)
	}
	if r.ReadOnly {
		return Usage{}, nil
	}
	u, err := diskUsage(ctx, s.path("containers", containerID, "upper"))
	if err != nil {
		return u, fmt.Errorf("usage of container %s: %w", containerID, err)
	}
	return u, nil
}

func (s *Store) loadContainers() error {
	entries, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if checkContainerID(e.Name()) != nil {
			continue
		}
		r := &record{}
		data, err := os.ReadFile(s.path("containers", e.Name(), "mount.json"))
		if err != nil || json.Unmarshal(data, r) != nil {
			r = &record{}
		}
		s.containers[e.Name()] = r
	}
	return nil
}
