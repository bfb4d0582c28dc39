package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// runtimeDir, below Root, holds a directory for each handler, defaultDir for "".
const (
	runtimeDir = "runtime"
	defaultDir = "default"
)

// handlerRecord is what a sandbox keeps of its handler, so that its end needs
// no configuration.
type handlerRecord struct {
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"`
}

// handler is one OCI runtime, and what it said that it can do.
type handler struct {
	handlerRecord
	root, version string
	seccomp       bool
	idmap         bool // mounts with mapped IDs
	mountOptions  []string
	// execCgroup: an exec can be started in a sub-cgroup of the container.
	execCgroup bool
}

// openHandler asks the OCI runtime what it is, once.
func (r *Runtime) openHandler(name, program string) (handler, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return handler{}, fmt.Errorf("find OCI runtime: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return handler{}, err
	}
	h := handler{handlerRecord: handlerRecord{Path: path, Args: r.cfg.RuntimeArgs[name]}, root: r.runtimeRoot(name)}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return handler{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	first, _, _ := bytes.Cut(out, []byte{'\n'})
	h.version = string(bytes.TrimSpace(first))
	// runtime-spec v1.3.0 features.md; a runtime without the command has none.
	if out, err := exec.Command(path, append(slices.Clone(h.Args), "features")...).Output(); err == nil {
		var features struct {
			MountOptions []string `json:"mountOptions"`
			Linux        struct {
				Seccomp struct {
					Enabled bool `json:"enabled"`
				} `json:"seccomp"`
				MountExtensions struct {
					IDMap struct {
						Enabled bool `json:"enabled"`
					} `json:"idmap"`
				} `json:"mountExtensions"`
			} `json:"linux"`
		}
		if json.Unmarshal(out, &features) == nil {
			h.seccomp, h.mountOptions = features.Linux.Seccomp.Enabled, features.MountOptions
			h.idmap = features.Linux.MountExtensions.IDMap.Enabled
		}
	}
	help, _ := exec.Command(path, append(slices.Clone(h.Args), "exec", "--help")...).CombinedOutput()
	h.execCgroup = hasExecCgroup(string(help), r.cgroups.trackPrefix)
	return h, nil
}

// hasExecCgroup reads the help of a runtime's exec. Where each controller has a
// hierarchy, --cgroup must be able to mean one of them, as runc's does: crun
// takes the path for all of them, and leaves the process out of each container's
// cgroup that has no such child.
func hasExecCgroup(help, prefix string) bool {
	return strings.Contains(help, "-cgroup") && (prefix == "" || strings.Contains(help, "<controller>:"))
}

func (r *Runtime) runtimeRoot(name string) string {
	return filepath.Join(r.cfg.Root, runtimeDir, cmp.Or(name, defaultDir))
}

// handlerOf gives a sandbox's handler: the configured one, else the one that an
// agent before had.
func (r *Runtime) handlerOf(s *sandbox) handler {
	if h, ok := r.handlers[s.spec.RuntimeHandler]; ok {
		return h
	}
	return handler{handlerRecord: s.Runtime, root: r.runtimeRoot(s.spec.RuntimeHandler)}
}

var idInName = regexp.MustCompile(`[0-9a-f]{64}`)

// states gives the IDs of containers of which the runtime has state, each once,
// with the files or directories that are theirs: some runtimes have a directory
// ID, others files with the ID in the name.
func (h handler) states() map[string][]string {
	out := map[string][]string{}
	entries, _ := os.ReadDir(h.root)
	for _, e := range entries {
		if id := idInName.FindString(e.Name()); id != "" {
			out[id] = append(out[id], filepath.Join(h.root, e.Name()))
		}
	}
	return out
}

// forget has the OCI runtime drop its state of a container.
func (h handler) forget(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	args := slices.Concat([]string{"--root", h.root}, h.Args, []string{"delete", "--force", id})
	// With its state gone there is nothing more that it could do.
	err := exec.CommandContext(ctx, h.Path, args...).Run()
	for _, path := range h.states()[id] {
		if rerr := os.RemoveAll(path); rerr != nil {
			return fmt.Errorf("forget container %s: %w", id, cmp.Or(err, rerr))
		}
	}
	return nil
}

// reapStates removes the state of containers that are not known, of handlers
// that are not configured any more as well.
func (r *Runtime) reapStates() (int, error) {
	count := 0
	entries, _ := os.ReadDir(filepath.Join(r.cfg.Root, runtimeDir))
	for _, e := range entries {
		name := e.Name()
		if name == defaultDir {
			name = ""
		}
		h := r.handlers[name]
		h.root = filepath.Join(r.cfg.Root, runtimeDir, e.Name())
		for id := range h.states() {
			if r.container(id) == nil {
				count++
				if err := h.forget(id); err != nil {
					return count, err
				}
			}
		}
	}
	return count, nil
}

// lateOptions are the mount options that not every OCI runtime has, and that
// one without them would drop: runtime-spec v1.3.0 config.md.
var lateOptions = []string{
	"rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnodiratime", "rdiratime",
	"rnoatime", "ratime", "rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime", "rnosymfollow", "rsymfollow",
	"idmap", "ridmap",
}

// checkMounts names options that the OCI runtime does not say it has.
func (h handler) checkMounts(mounts []specs.Mount) error {
	for i, m := range mounts {
		for _, option := range m.Options {
			if slices.Contains(lateOptions, option) && !slices.Contains(h.mountOptions, option) {
				return notSupported(fmt.Sprintf("Mounts[%d].Options", i), "has "+option+", which the OCI runtime has not")
			}
		}
	}
	return nil
}
