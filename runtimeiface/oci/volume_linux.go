package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// volumeMark stands between a container's ID and a number in the image store's
// name for the root of an image volume.
const volumeMark = ".volume"

// ownerOf is the container that has a root in the image store.
func ownerOf(rootID string) string {
	id, _, _ := strings.Cut(rootID, volumeMark)
	return id
}

// mountVolumes mounts those images that are volumes of the container, and gives
// what of them shall be seen, by the number of the mount.
func (r *Runtime) mountVolumes(c *container, userns *os.File) (map[int]string, error) {
	paths := map[int]string{}
	for i, m := range c.Spec.Mounts {
		if m.Type != "image" {
			continue
		}
		field := fmt.Sprintf("Mounts[%d]", i)
		img, err := r.store.Get(m.Source)
		if err != nil {
			return nil, fmt.Errorf("%s.Source: %w", field, translate(err))
		}
		root, err := r.store.Mount(context.Background(), c.ID+volumeMark+strconv.Itoa(i), img.ID,
			image.MountOptions{ReadOnly: true, UserNamespace: userns})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, translate(err))
		}
		faultPoint("image volume mounted")
		sub, _ := runtimeiface.ImageSubpath(m.Options)
		if paths[i], err = beneath(root, sub); err != nil {
			return nil, invalid(field+".Options", fmt.Sprintf("has a subpath that is not in the image: %s: %v", sub, err))
		}
	}
	return paths, nil
}

// unmountVolumes takes away the image volumes of a container, known or not.
func (r *Runtime) unmountVolumes(id string) error {
	var errs []error
	for _, root := range r.store.Mounted() {
		if root != id && ownerOf(root) == id {
			errs = append(errs, r.store.Unmount(root))
		}
	}
	return errors.Join(errs...)
}

// beneath gives the path, without symbolic links, of a file or directory below
// root; links in sub lead nowhere else. Root cannot be written to, so the path
// stays what it is.
func beneath(root, sub string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, filepath.Join(".", sub), &how)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return "", errors.New("it is neither a directory nor a file")
	}
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// volumeMount is the bind mount that shows an image volume. Files of an image
// are anybody's: no setuid program or device of it counts.
func volumeMount(m specs.Mount, path string) specs.Mount {
	_, options := runtimeiface.ImageSubpath(m.Options)
	options = slices.DeleteFunc(options, func(o string) bool {
		return slices.Contains([]string{"suid", "dev", "rbind", "bind"}, o)
	})
	m.Type, m.Source = "bind", path
	m.Options = append([]string{"bind", "rprivate"}, append(options, "ro", "nosuid", "nodev")...)
	return m
}
