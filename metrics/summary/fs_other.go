//go:build !linux

package summary

import stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

// fsStats knows nothing where there are no cgroups either.
func fsStats(string) *stats.FsStats { return nil }
