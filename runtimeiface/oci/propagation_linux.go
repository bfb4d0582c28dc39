package oci

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// peers is how a mount hangs together with others.
type peers struct {
	shared, slave bool
}

// propagationOf finds the mount that path is on.
func propagationOf(path string) (point string, p peers, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", p, err
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return "", p, fmt.Errorf("%w: statx tells no mount before Linux 5.8", unix.ENOSYS)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", p, err
	}
	point, p, ok := findMount(data, st.Mnt_id)
	if !ok {
		return "", p, fmt.Errorf("%w: mount %d is not in mountinfo", unix.ENOENT, st.Mnt_id)
	}
	return point, p, nil
}

// findMount looks in mountinfo (proc(5)) for
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw
func findMount(mountinfo []byte, id uint64) (point string, p peers, ok bool) {
	want := strconv.FormatUint(id, 10)
	for line := range bytes.Lines(mountinfo) {
		fields := strings.Fields(string(line))
		if len(fields) < 7 || fields[0] != want {
			continue
		}
		for _, option := range fields[6:] {
			if option == "-" {
				return fields[4], p, true
			}
			p.shared = p.shared || strings.HasPrefix(option, "shared:")
			p.slave = p.slave || strings.HasPrefix(option, "master:")
		}
	}
	return "", p, false
}
