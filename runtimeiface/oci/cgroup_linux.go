package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// cgroupKillTime is how long processes may take to die of SIGKILL.
const cgroupKillTime = 5 * time.Second

// cgroups are the mounted hierarchies. The OCI runtime makes the cgroups of
// containers, with all parents, in each of them; killing and removing is done
// here, over v1 hierarchies and the unified one beside them alike, which
// removal by a library that knows either v1 or v2 would leave.
type cgroups struct {
	mounts []string
	// used are those in which the OCI runtime makes cgroups.
	used []string
	// track is the hierarchy in which processes are looked up, and its prefix in
	// the OCI runtime's --cgroup.
	track, trackPrefix string
	// memory is the hierarchy of the memory controller, oomFile its file that
	// counts kills.
	memory, oomFile string
	// hugePages tells whether huge pages are counted where the OCI runtime makes
	// cgroups.
	hugePages bool
}

// readCgroups looks at the hierarchies of this machine.
func readCgroups() (*cgroups, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	c := parseCgroups(data)
	if c.track == "" {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	if len(c.used) == 1 && c.used[0] == c.memory { // v2 alone
		controllers, err := os.ReadFile(filepath.Join(c.memory, "cgroup.controllers"))
		if err != nil {
			return nil, err
		}
		c.hugePages = slices.Contains(strings.Fields(string(controllers)), "hugetlb")
	}
	return c, nil
}

// parseCgroups reads mountinfo (proc(5)):
// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseCgroups(mountinfo []byte) *cgroups {
	c := &cgroups{}
	unified := ""
	v1 := map[string]string{}
	for line := range bytes.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(string(line)), " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(types) < 3 || fields[3] != "/" {
			continue
		}
		dir := fields[4]
		switch types[0] {
		case "cgroup2":
			if unified == "" {
				unified = dir
				c.mounts = append(c.mounts, dir)
			}
		case "cgroup":
			c.mounts = append(c.mounts, dir)
			for option := range strings.SplitSeq(types[2], ",") {
				if v1[option] == "" {
					v1[option] = dir
				}
			}
		}
	}
	for _, controller := range []string{"freezer", "pids", "devices", "memory"} {
		if dir := v1[controller]; dir != "" {
			c.track, c.trackPrefix = dir, controller+":"
			break
		}
	}
	if c.track == "" {
		c.track = unified
	}
	if c.used = slices.DeleteFunc(slices.Clone(c.mounts), func(m string) bool { return m == unified }); len(c.used) == 0 {
		c.used = c.mounts
	}
	c.hugePages = v1["hugetlb"] != ""
	c.memory, c.oomFile = unified, "memory.events"
	if dir := v1["memory"]; dir != "" {
		c.memory, c.oomFile = dir, "memory.oom_control"
	}
	return c
}

// make is what the OCI runtime would do first, and takes longest for: it has
// nothing left to make but the container's own.
func (c *cgroups) make(path string) error {
	var errs []error
	for _, mount := range c.used {
		errs = append(errs, os.MkdirAll(filepath.Join(mount, path), 0o755))
	}
	return errors.Join(errs...)
}

// kill ends every process in the cgroup and below.
func (c *cgroups) kill(path string) error {
	if !shim.KillCgroup(filepath.Join(c.track, path), cgroupKillTime) {
		return fmt.Errorf("kill processes of cgroup %s: some do not die", path)
	}
	return nil
}

// remove takes the cgroup and those below away in every hierarchy.
func (c *cgroups) remove(path string) error {
	var errs []error
	for _, mount := range c.mounts {
		if err := removeTree(filepath.Join(mount, path)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hasChildren tells that there is a cgroup below, in any hierarchy.
func (c *cgroups) hasChildren(path string) bool {
	for _, mount := range c.mounts {
		entries, _ := os.ReadDir(filepath.Join(mount, path))
		if slices.ContainsFunc(entries, fs.DirEntry.IsDir) {
			return true
		}
	}
	return false
}

// removeTree removes directories only: that is all a cgroup lets one remove.
func removeTree(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := removeOne(d); err != nil {
			return err
		}
	}
	return nil
}

// removeOne waits a little: a killed process leaves its cgroup when it is reaped.
func removeOne(dir string) error {
	var err error
	for wait := time.Millisecond; wait < 600*time.Millisecond; wait *= 2 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}
