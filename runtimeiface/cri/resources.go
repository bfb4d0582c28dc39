package cri

import (
	"maps"

	"github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// resources puts limits into the CRI's words. It names the first that has none.
func resources(in *specs.LinuxResources) (*api.LinuxContainerResources, error) {
	out := &api.LinuxContainerResources{}
	if in == nil {
		return out, nil
	}
	if cpu := in.CPU; cpu != nil {
		switch {
		case cpu.RealtimeRuntime != nil || cpu.RealtimePeriod != nil:
			return nil, notSupported("Resources.CPU", "has real-time limits")
		case cpu.Burst != nil:
			return nil, notSupported("Resources.CPU.Burst", "has no word in the CRI")
		case cpu.Idle != nil:
			return nil, notSupported("Resources.CPU.Idle", "has no word in the CRI")
		}
		out.CpuPeriod, out.CpuQuota, out.CpuShares = int64(value(cpu.Period)), value(cpu.Quota), int64(value(cpu.Shares))
		out.CpusetCpus, out.CpusetMems = cpu.Cpus, cpu.Mems
	}
	if m := in.Memory; m != nil {
		switch {
		case m.Reservation != nil:
			return nil, notSupported("Resources.Memory.Reservation", "has no word in the CRI")
		case m.KernelTCP != nil:
			return nil, notSupported("Resources.Memory.KernelTCP", "has no word in the CRI")
		case m.Swappiness != nil:
			return nil, notSupported("Resources.Memory.Swappiness", "has no word in the CRI")
		case value(m.DisableOOMKiller):
			return nil, notSupported("Resources.Memory.DisableOOMKiller", "has no word in the CRI")
		}
		out.MemoryLimitInBytes, out.MemorySwapLimitInBytes = value(m.Limit), value(m.Swap)
	}
	for _, h := range in.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: h.Pagesize, Limit: h.Limit})
	}
	out.Unified = maps.Clone(in.Unified)
	switch {
	case in.Pids != nil && value(in.Pids.Limit) > 0:
		return nil, notSupported("Resources.Pids", "has no word in the CRI; limit the pod's cgroup")
	case in.BlockIO != nil:
		return nil, notSupported("Resources.BlockIO", "has no word in the CRI")
	case in.Network != nil:
		return nil, notSupported("Resources.Network", "has no word in the CRI")
	case len(in.Rdma) > 0:
		return nil, notSupported("Resources.Rdma", "has no word in the CRI")
	case len(in.Devices) > 0:
		return nil, notSupported("Resources.Devices", "has no word in the CRI; see Devices")
	}
	return out, nil
}

func value[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}
