package cri

import (
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

// measure adds what the kernel knows of the path.
func measure(fs *runtimeiface.Filesystem) {
	var st unix.Statfs_t
	if fs.Path == "" || unix.Statfs(fs.Path, &st) != nil {
		return
	}
	size := int64(st.Bsize)
	fs.CapacityBytes, fs.AvailableBytes = int64(st.Blocks)*size, int64(st.Bavail)*size
	fs.Inodes, fs.AvailableInodes = int64(st.Files), int64(st.Ffree)
}
