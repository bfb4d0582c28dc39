package kerneltest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// cgroupIdentity looks at the hierarchies where they are usually mounted.
func cgroupIdentity() error {
	for _, dir := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			continue
		}
		if st.Fsid == (unix.Fsid{}) {
			return fmt.Errorf("%s has no file system identity", dir)
		}
		return nil
	}
	return fmt.Errorf("no cgroup hierarchy is mounted below /sys/fs/cgroup")
}
