package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
)

// systemctlNotLoaded is systemctl's exit code for a unit that is not there (LSB:
// program is not installed).
const systemctlNotLoaded = 5

// openSystemd sees that systemd runs and can be told to stop slices.
func openSystemd() error {
	// As sd_booted(3) does.
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return fmt.Errorf("CgroupDriver %s: systemd does not run here: %w", systemdDriver, err)
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return fmt.Errorf("CgroupDriver %s: %w", systemdDriver, err)
	}
	return nil
}

// cgroupOf is where a container's processes are.
func cgroupOf(s *sandbox, id string) string {
	if s.Systemd {
		return scopeOf(s.CgroupParent, id)
	}
	return filepath.Join(s.CgroupParent, id)
}

// cgroupsPath is how the OCI runtime is told so.
func cgroupsPath(s *sandbox, id string) string {
	if s.Systemd {
		return scopePath(s.CgroupParent, id)
	}
	return cgroupOf(s, id)
}

// runtimeArgs are what the OCI runtime is called with for the sandbox's
// containers.
func runtimeArgs(s *sandbox, h handler) []string {
	if s.Systemd {
		return append(slices.Clone(h.Args), "--systemd-cgroup")
	}
	return h.Args
}

// removeCgroup ends what is left in a sandbox's own cgroup, and takes it away.
func (r *Runtime) removeCgroup(s *sandbox) error {
	err := r.cgroups.kill(s.CgroupParent)
	if s.Systemd {
		err = errors.Join(err, stopSlice(s.CgroupParent))
	}
	return errors.Join(err, r.cgroups.remove(s.CgroupParent))
}

// removeCgroupRoot takes the parent of all sandboxes away if nobody has anything
// below it.
func (r *Runtime) removeCgroupRoot() error {
	root := r.cfg.CgroupRoot
	if r.cfg.CgroupDriver == systemdDriver {
		if r.cgroups.hasChildren(root) {
			return nil
		}
		if err := stopSlice(root); err != nil {
			return err
		}
	}
	return r.cgroups.remove(root)
}

// stopSlice has systemd forget a slice that a scope has brought up: it stays
// when its last scope is gone.
func stopSlice(cgroup string) error {
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "--no-ask-password", "stop", "--", path.Base(cgroup)).CombinedOutput()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && exit.ExitCode() == systemctlNotLoaded {
		return nil
	}
	return fmt.Errorf("stop slice %s: %w: %s", path.Base(cgroup), err, bytes.TrimSpace(out))
}
