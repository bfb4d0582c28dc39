package oci

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// checkUserNamespace finds what lacks for a user namespace, before anything of
// the pod is made.
func (r *Runtime) checkUserNamespace(spec runtimeiface.SandboxSpec) error {
	if spec.UserNamespace == nil {
		return nil
	}
	for field, list := range map[string][]specs.LinuxIDMapping{"UIDs": spec.UserNamespace.UIDs, "GIDs": spec.UserNamespace.GIDs} {
		if n := mapSize(list); n >= os.Getpagesize() {
			return invalid("UserNamespace."+field, fmt.Sprintf("have %d bytes as the kernel wants them, a page or more", n))
		}
	}
	if !r.handlers[spec.RuntimeHandler].idmap {
		return notSupported("UserNamespace", "wants an OCI runtime with the feature idmap")
	}
	if most, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || string(bytes.TrimSpace(most)) == "0" {
		return notSupported("UserNamespace", "wants user namespaces: the kernel has none, or user.max_user_namespaces is 0")
	}
	return r.openWay()
}

// mapSize is the length of the text that a process's uid_map would take
// (user_namespaces(7)).
func mapSize(list []specs.LinuxIDMapping) (n int) {
	for _, m := range list {
		n += len(fmt.Sprintf("%d %d %d\n", m.ContainerID, m.HostID, m.Size))
	}
	return n
}

// openWay lets ID 0 of user namespaces reach the roots of their containers, or
// says which directory is in the way. Below Root, what is not meant for them
// stays closed.
func (r *Runtime) openWay() error {
	for dir := r.cfg.Images.Root; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		switch mode := info.Mode().Perm(); {
		case mode&0o001 != 0:
		case dir == r.cfg.Root || dir == r.cfg.Images.Root:
			if err := os.Chmod(dir, mode|0o001); err != nil {
				return err
			}
		default:
			return notSupported("UserNamespace", fmt.Sprintf("wants %s passable for others: its mode is %04o", dir, mode))
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// holdUserNamespace makes the pod's user namespace with those that it owns. The
// shim stays in the node's: a child of it holds them.
func (r *Runtime) holdUserNamespace(ctx context.Context, s *sandbox, client *shimClient, hostname string, sysctls []string) error {
	u := s.spec.UserNamespace
	req := shim.PauseRequest{UIDs: shimMappings(u.UIDs), GIDs: shimMappings(u.GIDs), Hostname: hostname, Sysctls: sysctls}
	if err := r.findHolder(ctx, client, req.Fields()...); err != nil {
		return fmt.Errorf("UserNamespace: %w", err)
	}
	faultPoint("user namespace held")
	if r.userns.Load() {
		return nil
	}
	userns, err := openUserNS(client.pid)
	if err != nil {
		return err
	}
	defer func() { _ = userns.Close() }()
	if err := r.store.ProbeUserNamespace(userns); err != nil {
		return fmt.Errorf("UserNamespace: %w", translate(err))
	}
	r.userns.Store(true)
	return nil
}

// findHolder has the shim tell, or first make, the process that holds the
// namespaces.
func (r *Runtime) findHolder(ctx context.Context, client *shimClient, fields ...string) error {
	m, err := client.call(ctx, shim.OpPause, fields...)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(m.Field(0))
	if err != nil {
		return err
	}
	r.mu.Lock()
	client.pid = pid
	r.mu.Unlock()
	return nil
}

func openUserNS(pid int) (*os.File, error) { return os.Open(fmt.Sprintf("/proc/%d/ns/user", pid)) }

func shimMappings(list []specs.LinuxIDMapping) []shim.IDMapping {
	out := make([]shim.IDMapping, len(list))
	for i, m := range list {
		out[i] = shim.IDMapping{Container: m.ContainerID, Host: m.HostID, Size: m.Size}
	}
	return out
}

// hostID gives the node's ID for one of the pod, false if it has none.
func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return math.MaxUint32, false
}

func isMapped(list []specs.LinuxIDMapping, id uint32) bool {
	_, ok := hostID(list, id)
	return ok
}

// checkUser says which ID of the process the pod does not have.
func checkUser(u *runtimeiface.UserNamespace, user specs.User) error {
	if u == nil {
		return nil
	}
	if !isMapped(u.UIDs, user.UID) {
		return invalid("Security.RunAsUser", fmt.Sprintf("or the image's user is %d, which UserNamespace.UIDs do not map", user.UID))
	}
	for _, gid := range append([]uint32{user.GID}, user.AdditionalGids...) {
		if !isMapped(u.GIDs, gid) {
			return invalid("Security.SupplementalGroups", fmt.Sprintf("or RunAsGroup or the image's groups have %d, which UserNamespace.GIDs do not map", gid))
		}
	}
	return nil
}

// mapMount has the OCI runtime show a bind mount's files with their owners as
// seen from within the pod, if the file system lets it.
func (in specInput) mapMount(field string, m specs.Mount) (specs.Mount, error) {
	u := in.sandbox.spec.UserNamespace
	if u == nil {
		return m, nil
	}
	option, flags := "idmap", uint(0)
	if slices.Contains(m.Options, "rbind") {
		option, flags = "ridmap", unix.AT_RECURSIVE
	}
	if err := mappable(m.Source, in.userns, flags); err != nil {
		return m, notSupported(field, fmt.Sprintf("%s cannot be mounted in a user namespace: %v", m.Source, err))
	}
	m.Options = append(m.Options, option)
	m.UIDMappings, m.GIDMappings = u.UIDs, u.GIDs
	return m, nil
}

// mappable tries on a mount that is never attached.
func mappable(path string, userns *os.File, flags uint) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &attr)
}
