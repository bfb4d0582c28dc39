package oci

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds of the kernel, Linux 6.18 kernel/sched/core.c and block/blk-cgroup.h.
const (
	minQuota, minPeriod, maxPeriod = 1000, 1000, 1000000 // microseconds
	minWeight, maxWeight           = 10, 1000
	maxShares                      = 1 << 18
)

// setPattern is a list of CPUs or memory nodes, cpuset(7).
var setPattern = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)

// mergeResources gives what of change is not nil or zero, and the rest from old,
// which may be nil. It shares nothing that is written to later.
func mergeResources(old *specs.LinuxResources, change specs.LinuxResources) specs.LinuxResources {
	var out specs.LinuxResources
	if old != nil {
		mergeInto(reflect.ValueOf(&out).Elem(), reflect.ValueOf(*old))
	}
	mergeInto(reflect.ValueOf(&out).Elem(), reflect.ValueOf(change))
	return out
}

func mergeInto(to, from reflect.Value) {
	switch {
	case from.Kind() == reflect.Struct:
		for i := range from.NumField() {
			mergeInto(to.Field(i), from.Field(i))
		}
	case from.IsZero():
	case from.Kind() == reflect.Pointer && from.Elem().Kind() == reflect.Struct:
		if to.IsNil() {
			to.Set(reflect.New(from.Type().Elem()))
		}
		mergeInto(to.Elem(), from.Elem())
	case from.Kind() == reflect.Pointer && from.Elem().IsZero():
	default:
		to.Set(from)
	}
}

// checkUpdate names what of change cannot be, and what makes no sense once it is
// merged.
func checkUpdate(change, merged specs.LinuxResources) error {
	var errs []error
	bad := func(when bool, field, format string, args ...any) {
		if when {
			errs = append(errs, invalid(field, fmt.Sprintf(format, args...)))
		}
	}
	lacks := func(when bool, field string) {
		if when {
			errs = append(errs, notSupported(field, "cannot be changed"))
		}
	}
	bad(len(change.Devices) > 0, "Devices", "cannot be changed")
	lacks(len(change.HugepageLimits) > 0, "HugepageLimits")
	lacks(change.Network != nil, "Network")
	lacks(len(change.Rdma) > 0, "Rdma")
	for key := range change.Unified {
		bad(key == "" || strings.ContainsAny(key, "/\x00") || !strings.Contains(key, "."), "Unified["+key+"]", "is no file of a cgroup")
	}
	if m := change.Memory; m != nil {
		lacks(m.Swappiness != nil, "Memory.Swappiness")
		lacks(m.DisableOOMKiller != nil, "Memory.DisableOOMKiller")
		lacks(m.UseHierarchy != nil, "Memory.UseHierarchy")
		//lint:ignore SA1019 it may still be asked for
		lacks(m.Kernel != nil, "Memory.Kernel")
		lacks(m.KernelTCP != nil, "Memory.KernelTCP")
	}
	checkMemory(bad, merged.Memory)
	checkCPU(bad, merged.CPU)
	if p := merged.Pids; p != nil {
		bad(p.Limit != nil && *p.Limit < -1, "Pids.Limit", "is below -1")
	}
	if b := merged.BlockIO; b != nil && b.Weight != nil {
		bad(*b.Weight < minWeight || *b.Weight > maxWeight, "BlockIO.Weight", "is not within %d and %d", minWeight, maxWeight)
	}
	return errors.Join(errs...)
}

func checkMemory(bad func(bool, string, string, ...any), m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	for field, value := range map[string]*int64{"Memory.Limit": m.Limit, "Memory.Reservation": m.Reservation, "Memory.Swap": m.Swap} {
		bad(value != nil && *value < -1, field, "is below -1")
	}
	if m.Swap != nil && *m.Swap > 0 {
		bad(m.Limit == nil || *m.Limit < 0 || *m.Limit > *m.Swap, "Memory.Swap", "is memory and swap together, and less than Memory.Limit")
	}
}

func checkCPU(bad func(bool, string, string, ...any), c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	bad(c.Quota != nil && *c.Quota != -1 && *c.Quota < minQuota, "CPU.Quota", "is not -1, nor at least %d", minQuota)
	bad(c.Period != nil && (*c.Period < minPeriod || *c.Period > maxPeriod), "CPU.Period", "is not within %d and %d", minPeriod, maxPeriod)
	bad(c.Shares != nil && *c.Shares > maxShares, "CPU.Shares", "is above %d", maxShares)
	bad(c.Cpus != "" && !setPattern.MatchString(c.Cpus), "CPU.Cpus", "is no list of CPUs: %s", c.Cpus)
	bad(c.Mems != "" && !setPattern.MatchString(c.Mems), "CPU.Mems", "is no list of memory nodes: %s", c.Mems)
}

// updateDocument is what an OCI runtime's update is given: all limits, since
// some take what is not there for none, but not what it cannot change.
func updateDocument(merged specs.LinuxResources) specs.LinuxResources {
	out := specs.LinuxResources{CPU: merged.CPU, Pids: merged.Pids, BlockIO: merged.BlockIO, Unified: merged.Unified}
	if merged.Memory != nil {
		// Without the check v2 kills for memory what uses more than the new limit.
		check := true
		out.Memory = &specs.LinuxMemory{
			Limit: merged.Memory.Limit, Reservation: merged.Memory.Reservation, Swap: merged.Memory.Swap, CheckBeforeUpdate: &check,
		}
	}
	return out
}
