package summary

import (
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/metrics"
)

// fsStats asks the file system of path; nil for an empty path or one that
// cannot be asked.
func fsStats(path string) *stats.FsStats {
	if path == "" {
		return nil
	}
	f, err := statfs(path)
	if err != nil {
		return nil
	}
	return f
}

func statfs(path string) (*stats.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, err
	}
	block := uint64(st.Frsize)
	return &stats.FsStats{
		Time:           metav1.NewTime(time.Now()),
		AvailableBytes: ptr(st.Bavail * block), CapacityBytes: ptr(st.Blocks * block),
		UsedBytes:  ptr((st.Blocks - st.Bfree) * block),
		InodesFree: ptr(st.Ffree), Inodes: ptr(st.Files), InodesUsed: ptr(st.Files - st.Ffree),
	}, nil
}

// VolumeAt gives the figures of a volume whose files lie at path, for
// Config.Volumes: what its file system has, by statfs(2), and as used what used
// tells, at its time. If path is a file system of its own, such as an emptyDir in
// memory or a network's, all that is used of it is the volume's and used does not
// count; otherwise with used.At zero nothing is told as used. It waits as long as
// the file system does, for a network's perhaps for ever. Elsewhere than on Linux
// it gives metrics.ErrNotSupported.
func VolumeAt(name, path string, used metrics.DiskUse) (stats.VolumeStats, error) {
	v := stats.VolumeStats{Name: name}
	var at, above unix.Stat_t
	if err := unix.Stat(path, &at); err != nil {
		return v, fmt.Errorf("stat volume %s: %w", path, err)
	}
	// Not "..", which of a path that is a link is above what it leads to.
	if err := unix.Stat(filepath.Dir(filepath.Clean(path)), &above); err != nil {
		return v, fmt.Errorf("stat above volume %s: %w", path, err)
	}
	f, err := statfs(path)
	if err != nil {
		return v, fmt.Errorf("file system of volume %s: %w", path, err)
	}
	v.FsStats = *f
	if at.Dev == above.Dev {
		v.UsedBytes, v.InodesUsed = nil, nil
		if told := disk(&used, f); told != nil {
			v.FsStats = *told
		}
	}
	return v, nil
}
