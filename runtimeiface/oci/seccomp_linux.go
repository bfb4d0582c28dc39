package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

// maxProfile is the size of a seccomp profile's file.
const maxProfile = 1 << 20

// seccompActions are those of runtime-spec v1.3.0.
var seccompActions = []specs.LinuxSeccompAction{
	specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
	specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify,
}

// filter sets the system-call filter.
func (in specInput) filter(s *specs.Spec) error {
	sec := in.container.Security
	if sec.Privileged || sec.Seccomp == "" || sec.Seccomp == runtimeiface.SeccompUnconfined {
		return nil
	}
	var profile *specs.LinuxSeccomp
	var err error
	if sec.Seccomp == runtimeiface.SeccompLocalhost {
		if profile, err = readProfile(sec.SeccompProfile); err != nil {
			return invalid("Security.SeccompProfile", fmt.Sprintf("%s: %v", sec.SeccompProfile, err))
		}
	}
	if !in.seccomp {
		return fmt.Errorf("Security.Seccomp %s: %w: the OCI runtime was built without seccomp", sec.Seccomp, runtimeiface.ErrNotSupported)
	}
	if sec.Seccomp == runtimeiface.SeccompRuntimeDefault {
		if profile, err = seccomp.GetDefaultProfile(s); err != nil {
			return fmt.Errorf("default seccomp profile: %w", err)
		}
	}
	s.Linux.Seccomp = profile
	return nil
}

// readProfile reads {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names":
// ["read"], "action": "SCMP_ACT_ALLOW"}]}.
func readProfile(path string) (*specs.LinuxSeccomp, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us up
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxProfile {
		return nil, fmt.Errorf("is not a regular file of at most %d bytes", maxProfile)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxProfile))
	if err != nil {
		return nil, err
	}
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(data, profile); err != nil {
		return nil, err
	}
	if !slices.Contains(seccompActions, profile.DefaultAction) {
		return nil, fmt.Errorf("unknown defaultAction %q", profile.DefaultAction)
	}
	for i, call := range profile.Syscalls {
		if !slices.Contains(seccompActions, call.Action) || len(call.Names) == 0 {
			return nil, fmt.Errorf("syscalls[%d] has no names, or unknown action %q", i, call.Action)
		}
	}
	if profile.ListenerPath != "" {
		return nil, errors.New("has a listenerPath, which nobody serves")
	}
	return profile, nil
}
