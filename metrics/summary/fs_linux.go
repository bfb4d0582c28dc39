package summary

import (
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// fsStats asks the file system of path; nil for an empty path or one that
// cannot be asked.
func fsStats(path string) *stats.FsStats {
	var st unix.Statfs_t
	if path == "" || unix.Statfs(path, &st) != nil {
		return nil
	}
	block := uint64(st.Frsize)
	return &stats.FsStats{
		Time:           metav1.NewTime(time.Now()),
		AvailableBytes: ptr(st.Bavail * block), CapacityBytes: ptr(st.Blocks * block),
		UsedBytes:  ptr((st.Blocks - st.Bfree) * block),
		InodesFree: ptr(st.Ffree), Inodes: ptr(st.Files), InodesUsed: ptr(st.Files - st.Ffree),
	}
}
