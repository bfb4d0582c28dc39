package cri

import (
	"fmt"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	dockerd = "docker" // cri-dockerd's name for itself
	unknown = "is nothing that cri-dockerd hears"
)

// unheard names what cri-dockerd v0.4.3 leaves out without a word: its
// core/container_create.go and core/helpers_linux.go do not read these fields.
func (r *Runtime) unheard(config *api.ContainerConfig) error {
	if r.name != dockerd {
		return nil
	}
	if config.StopSignal != api.Signal_SIGNAL_RUNTIME_DEFAULT {
		return notSupported("StopSignal", unknown)
	}
	for i, m := range config.Mounts {
		if m.Image != nil {
			return notSupported(fmt.Sprintf("Mounts[%d].Type", i), unknown)
		}
	}
	return r.unheardLimits(config.GetLinux().GetResources())
}

// unheardLimits is the same of limits, at a start and at an update.
func (r *Runtime) unheardLimits(limits *api.LinuxContainerResources) error {
	if r.name != dockerd {
		return nil
	}
	switch {
	case len(limits.GetUnified()) > 0:
		return notSupported("Resources.Unified", unknown)
	case len(limits.GetHugepageLimits()) > 0:
		return notSupported("Resources.HugepageLimits", unknown)
	case limits.GetMemorySwapLimitInBytes() != 0 && limits.GetMemorySwapLimitInBytes() != limits.GetMemoryLimitInBytes():
		return notSupported("Resources.Memory.Swap", "is always the limit of memory with cri-dockerd")
	}
	return nil
}
