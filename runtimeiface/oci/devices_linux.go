package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nodesDir, of a container, holds device nodes for pods with a user namespace.
const nodesDir = "devices"

// resources sets limits and devices: none but those asked for and the usual. A
// rule of Resources.Devices for just one of Devices says how that can be used,
// else it can be read, written and made anew; other rules come after.
func (in specInput) resources(s *specs.Spec) error {
	r := &specs.LinuxResources{}
	if in.container.Resources != nil {
		copied := *in.container.Resources
		r = &copied
	}
	if !in.hugePages {
		r.HugepageLimits = nil // the OCI runtime would refuse them
	}
	s.Linux.Resources = r
	devices, err := in.devices()
	if err != nil {
		return err
	}
	if in.container.Security.Privileged {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		for _, d := range hostDevices() {
			if !slices.ContainsFunc(devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path }) {
				s.Linux.Devices = append(s.Linux.Devices, d)
			}
		}
	} else {
		rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
		for _, d := range devices {
			exact := func(rule specs.LinuxDeviceCgroup) bool { return isFor(rule, d) }
			if !slices.ContainsFunc(r.Devices, exact) {
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
			}
		}
		r.Devices = append(rules, r.Devices...)
	}
	if in.userns == nil {
		s.Linux.Devices = append(s.Linux.Devices, devices...)
		return nil
	}
	return in.bindDevices(s, devices)
}

func isFor(rule specs.LinuxDeviceCgroup, d specs.LinuxDevice) bool {
	return rule.Type == d.Type && rule.Major != nil && *rule.Major == d.Major && rule.Minor != nil && *rule.Minor == d.Minor
}

// devices gives those asked for, of each path the first. Without a type it is
// the node's device of that path.
func (in specInput) devices() ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	for i, d := range in.container.Devices {
		field := fmt.Sprintf("Devices[%d]", i)
		if d.Type == "" {
			found, err := nodeDevice(d.Path)
			if err != nil {
				return nil, invalid(field+".Path", err.Error())
			}
			d.Type, d.Major, d.Minor = found.Type, found.Major, found.Minor
		}
		if !hasDevice(d) {
			return nil, invalid(field, fmt.Sprintf("is not on the node: %s, type %s, %d:%d", d.Path, d.Type, d.Major, d.Minor))
		}
		if u := in.sandbox.spec.UserNamespace; u != nil {
			if d.UID != nil && !isMapped(u.UIDs, *d.UID) || d.GID != nil && !isMapped(u.GIDs, *d.GID) {
				return nil, invalid(field, "has an owner that UserNamespace does not map")
			}
		}
		if !slices.ContainsFunc(out, func(o specs.LinuxDevice) bool { return o.Path == d.Path }) {
			out = append(out, d)
		}
	}
	return out, nil
}

// hasDevice tells whether the kernel has the device, under whatever name.
func hasDevice(d specs.LinuxDevice) bool {
	class := "char"
	if d.Type == "b" {
		class = "block"
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/%s/%d:%d", class, d.Major, d.Minor)); err == nil {
		return true
	}
	found, err := nodeDevice(d.Path)
	return err == nil && (found.Type == "b") == (d.Type == "b") && found.Major == d.Major && found.Minor == d.Minor
}

// bindDevices makes nodes beside the container's bundle, since nobody can make
// any in a user namespace, with the owners that the pod shall see.
func (in specInput) bindDevices(s *specs.Spec, devices []specs.LinuxDevice) error {
	if len(devices) == 0 {
		return nil
	}
	u := in.sandbox.spec.UserNamespace
	dir := filepath.Join(in.dir, nodesDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NODEV != 0 {
		return notSupported("Devices", "want Root on a file system that is not mounted nodev, if there is a UserNamespace")
	}
	for i, d := range devices {
		mode, uid, gid := uint32(0o666), uint32(0), uint32(0)
		if d.FileMode != nil {
			mode = uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		uid, _ = hostID(u.UIDs, uid)
		gid, _ = hostID(u.GIDs, gid)
		kind := uint32(unix.S_IFCHR)
		if d.Type == "b" {
			kind = unix.S_IFBLK
		}
		path := filepath.Join(dir, strconv.Itoa(i))
		err := unix.Mknod(path, kind, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
		if err == nil {
			err = unix.Chown(path, int(uid), int(gid))
		}
		if err == nil {
			err = unix.Chmod(path, mode)
		}
		if err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: d.Path, Type: "bind", Source: path, Options: []string{"bind", "rprivate", "nosuid", "noexec"},
		})
	}
	return nil
}

// hostDevices are the node's, for privileged containers. What the runtime
// makes by itself, and directories, are left out.
func hostDevices() []specs.LinuxDevice {
	var out []specs.LinuxDevice
	entries, _ := os.ReadDir("/dev")
	for _, e := range entries {
		if e.Name() == "console" || e.Name() == "ptmx" || e.Type()&os.ModeDevice == 0 {
			continue
		}
		if d, err := nodeDevice("/dev/" + e.Name()); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// nodeDevice is what the node has at a path.
func nodeDevice(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return specs.LinuxDevice{}, fmt.Errorf("is not on the node: %s: %w", path, err)
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if kind == "" {
		return specs.LinuxDevice{}, fmt.Errorf("is no device on the node: %s", path)
	}
	mode := os.FileMode(st.Mode & 0o777)
	return specs.LinuxDevice{
		Path: path, Type: kind, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
	}, nil
}
