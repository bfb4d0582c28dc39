package machine

import "golang.org/x/sys/unix"

// size returns the bytes and inodes of the file system at path.
func size(path string) (capacity, inodes uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return st.Blocks * uint64(st.Frsize), st.Files, nil
}
