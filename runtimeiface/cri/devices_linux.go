package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// devices finds on the host what the CRI wants named by path.
func devices(list []specs.LinuxDevice) ([]*api.Device, error) {
	var out []*api.Device
	for i, d := range list {
		field := fmt.Sprintf("Devices[%d]", i)
		if !strings.HasPrefix(d.Path, "/") {
			return nil, invalid(field+".Path", "is not absolute: "+d.Path)
		}
		path, st, err := deviceNode(d)
		if err != nil {
			return nil, invalid(field, err.Error())
		}
		if d.FileMode != nil && uint32(d.FileMode.Perm()) != st.Mode&0o777 || d.UID != nil && *d.UID != st.Uid || d.GID != nil && *d.GID != st.Gid {
			return nil, notSupported(field, "has another mode or owner than "+path)
		}
		out = append(out, &api.Device{ContainerPath: d.Path, HostPath: path, Permissions: "rwm"})
	}
	return out, nil
}

// deviceNode is the path itself, or what the kernel calls the device.
func deviceNode(d specs.LinuxDevice) (string, unix.Stat_t, error) {
	kind, class := uint32(unix.S_IFCHR), "char"
	switch d.Type {
	case "c", "u":
	case "b":
		kind, class = unix.S_IFBLK, "block"
	default:
		return "", unix.Stat_t{}, fmt.Errorf("has type %q, which is no device of the host", d.Type)
	}
	var st unix.Stat_t
	is := func(path string) bool {
		return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == kind &&
			int64(unix.Major(st.Rdev)) == d.Major && int64(unix.Minor(st.Rdev)) == d.Minor
	}
	if is(d.Path) {
		return d.Path, st, nil
	}
	data, _ := os.ReadFile(fmt.Sprintf("/sys/dev/%s/%d:%d/uevent", class, d.Major, d.Minor))
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok && is(filepath.Join("/dev", name)) {
			return filepath.Join("/dev", name), st, nil
		}
	}
	return "", unix.Stat_t{}, fmt.Errorf("%s device %d:%d is not on the host", class, d.Major, d.Minor)
}
