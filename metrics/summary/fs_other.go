//go:build !linux

package summary

import (
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/metrics"
)

// fsStats knows nothing where there are no cgroups either.
func fsStats(string) *stats.FsStats { return nil }

// VolumeAt gives metrics.ErrNotSupported.
func VolumeAt(name, _ string, _ metrics.DiskUse) (stats.VolumeStats, error) {
	return stats.VolumeStats{Name: name}, metrics.ErrNotSupported
}
