package burden

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/nodekit/nodekit/metrics"
)

func processors() float64 { return float64(runtime.NumCPU()) }

func used(s *metrics.Sample) (a Amount) {
	if rate, ok := s.Get(metrics.CPURate); ok {
		a.CPU = ptr(float64(rate) / 1e9)
	}
	if set, ok := s.Get(metrics.MemoryWorkingSet); ok {
		a.Memory = &set
	}
	return a
}

func pressure(s *metrics.Sample) Pressure {
	part := func(f metrics.Field) *float64 {
		hundredths, ok := s.Get(f)
		if !ok {
			return nil
		}
		return ptr(float64(hundredths) / 1e4)
	}
	return Pressure{CPU: part(metrics.CPUSomeAvg10), Memory: part(metrics.MemorySomeAvg10), IO: part(metrics.IOSomeAvg10)}
}

// requestOf undoes what the kubelet makes of a request: cpu.shares of 1024 for
// each core, not below 2, which is of who requested nothing (Kubernetes v1.37.0
// pkg/kubelet/cm/helpers_linux.go, MilliCPUToShares). What is of no pod has
// 1024 without asking.
func requestOf(s *metrics.Sample) *float64 {
	const perCore, least = 1024, 2
	shares, ok := s.Get(metrics.LimitCPUShares)
	if !ok || s.Target.Pod == "" {
		return nil
	}
	if shares <= least {
		shares = 0
	}
	return ptr(float64(shares) / perCore)
}

// limits of more memory than the node has limit nothing.
func limits(s *metrics.Sample, capacity *Amount) (a Amount) {
	quota, ok := s.Get(metrics.LimitCPUQuota)
	period, ok2 := s.Get(metrics.LimitCPUPeriod)
	if ok && ok2 && quota != metrics.Unlimited && period > 0 {
		a.CPU = ptr(float64(quota) / float64(period))
	}
	if limit, ok := s.Get(metrics.LimitMemory); ok && capacity.Memory != nil && limit <= *capacity.Memory {
		a.Memory = &limit
	}
	return a
}

// String gives the report as a table for a terminal, at most twenty burdens.
func (r *Report) String() string {
	const most = 20
	var b strings.Builder
	row := func(name string, a Amount) { fmt.Fprintf(&b, "%-12s %8s %10s\n", name, cores(a.CPU), size(a.Memory)) }
	fmt.Fprintf(&b, "%-12s %8s %10s\n", "", "CPU", "MEMORY")
	row("capacity", r.Capacity)
	row("allocatable", r.Allocatable)
	row("requested", r.Requested)
	row("limits", r.Limits)
	row("used", r.Used)
	fmt.Fprintf(&b, "%-12s %8s %10s, disks %s\n\n", "waiting", percent(r.Pressure.CPU), percent(r.Pressure.Memory), percent(r.Pressure.IO))
	fmt.Fprintf(&b, "%6s %8s %10s  %s\n", "SHARE", "CPU", "MEMORY", "WHO")
	for i := range r.Burdens {
		if i == most {
			break
		}
		one := &r.Burdens[i]
		fmt.Fprintf(&b, "%6s %8s %10s  %s", percent(&one.Share), cores(one.Used.CPU), size(one.Used.Memory), one.Name)
		if len(one.Reasons) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(one.Reasons, "; "))
		}
		b.WriteByte('\n')
	}
	if more := len(r.Burdens) + r.More - min(most, len(r.Burdens)); more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

func cores(n *float64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f", *n)
}

func percent(part *float64) string {
	if part == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100**part)
}

func size(n *uint64) string {
	if n == nil {
		return "-"
	}
	return bytes(*n)
}

// bytes writes 1610612736 as 1.5Gi.
func bytes(n uint64) string {
	value, unit := float64(n), ""
	for _, next := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + unit
}
