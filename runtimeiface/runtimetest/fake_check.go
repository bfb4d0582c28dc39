package runtimetest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// signals of linux on every architecture but mips and sparc, without "SIG".
var signals = map[string]int32{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
	"CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
	"VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}

func (f *Fake) checkContainer(spec runtimeiface.ContainerSpec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if spec.StopSignal != "" && signals[strings.TrimPrefix(spec.StopSignal, "SIG")] == 0 {
		return invalid("StopSignal", "is no signal: "+spec.StopSignal)
	}
	for i, m := range spec.Mounts {
		if m.Type != "bind" {
			continue
		}
		if err := f.stat(m.Source); err != nil {
			return invalid(fmt.Sprintf("Mounts[%d].Source", i), err.Error())
		}
	}
	return nil
}

// mountedImages are those that mounts of Type "image" name, each with its subpath.
func (f *Fake) mountedImages(spec runtimeiface.ContainerSpec) ([]*image, error) {
	var list []*image
	for i, m := range spec.Mounts {
		if m.Type != "image" {
			continue
		}
		img := f.images[m.Source]
		if img == nil {
			return nil, fmt.Errorf("Mounts[%d].Source: image %q: %w", i, m.Source, runtimeiface.ErrNotFound)
		}
		sub, _ := runtimeiface.ImageSubpath(m.Options)
		if sub = path.Clean(sub); sub != "." && img.Dirs != nil && !slices.Contains(img.Dirs, sub) {
			return nil, invalid(fmt.Sprintf("Mounts[%d].Options", i), "has a subpath that is no directory of the image: "+sub)
		}
		list = append(list, img)
	}
	return list, nil
}

// checkTarget looks for the container whose PID namespace is to be joined.
func (f *Fake) checkTarget(sandboxID string, spec runtimeiface.ContainerSpec) error {
	if spec.PID != runtimeiface.NamespaceTarget {
		return nil
	}
	target := f.containers[spec.PIDTarget]
	if target == nil || target.SandboxID != sandboxID {
		return fmt.Errorf("PIDTarget %q: no container of the sandbox: %w", spec.PIDTarget, runtimeiface.ErrNotFound)
	}
	if target.State != runtimeiface.ContainerRunning {
		return fmt.Errorf("PIDTarget %s: %w", target.ID, runtimeiface.ErrNotRunning)
	}
	return nil
}

func (p Process) copy() Process {
	p.Argv, p.Env = slices.Clone(p.Argv), slices.Clone(p.Env)
	return p
}
