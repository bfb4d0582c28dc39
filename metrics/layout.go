package metrics

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// controller is what a hierarchy is asked for.
type controller uint8

const (
	controllerCPU     controller = iota // cpu.stat and limits
	controllerCPUAcct                   // usage; on v2 cpu.stat tells it, controller or not
	controllerMemory
	controllerPids
	controllerIO
	controllerPressure // v2 only, needs no controller
	controllerHugetlb
	numControllers
)

// controllerNames are the words of v1 mount options.
var controllerNames = [numControllers]string{"cpu", "cpuacct", "memory", "pids", "blkio", "", "hugetlb"}

// place is where a controller's files are.
type place struct {
	version int    // 1, 2, or 0 for nowhere
	root    string // absolute path of the hierarchy, no slash at its end
}

// layout says for each controller which hierarchy has it, so that a hybrid
// machine is decided controller by controller.
type layout [numControllers]place

// mount is a cgroup mount: its path, version and, for v1, its controllers.
type mount struct {
	path        string
	version     int
	controllers []string
	whole       bool // its root is the root of the hierarchy
}

// parseMountinfo finds the cgroup mounts of /proc/PID/mountinfo (proc(5)):
//
//	35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
//	41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
func parseMountinfo(b []byte) ([]mount, error) {
	var mounts []mount
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			return nil, ErrGarbled
		}
		b = rest
		before, after, ok := bytes.Cut(line, []byte(" - "))
		if !ok {
			return nil, ErrGarbled
		}
		left, right := strings.Fields(string(before)), strings.Fields(string(after))
		if len(left) < 6 || len(right) < 2 {
			return nil, ErrGarbled
		}
		m := mount{path: unescape(left[4]), whole: left[3] == "/"}
		switch right[0] {
		case "cgroup2":
			m.version = 2
		case "cgroup":
			m.version = 1
			m.controllers = strings.Split(right[len(right)-1], ",")
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// unescape undoes the kernel's \040 for blanks, tabs, newlines and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// decide places each controller. A v1 hierarchy that has it wins, for the
// kernel gives a controller to one hierarchy only; v2 has those that
// onUnified, the words of its root's cgroup.controllers, lists.
func decide(mounts []mount, onUnified []string) layout {
	var l layout
	for i := range l {
		want := controllerNames[i]
		for _, m := range mounts {
			if m.version != 1 || want == "" || !contains(m.controllers, want) {
				continue
			}
			if l[i].version == 0 || m.whole {
				l[i] = place{1, m.path}
			}
			if m.whole {
				break
			}
		}
	}
	for _, m := range mounts {
		if m.version != 2 {
			continue
		}
		unified := place{2, m.path}
		l[controllerPressure] = unified
		if l[controllerCPUAcct].version == 0 {
			l[controllerCPUAcct] = unified
		}
		for i, word := range map[controller]string{
			controllerCPU: "cpu", controllerMemory: "memory",
			controllerPids: "pids", controllerIO: "io", controllerHugetlb: "hugetlb",
		} {
			if l[i].version == 0 && contains(onUnified, word) {
				l[i] = unified
			}
		}
		break
	}
	return l
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

// Hierarchies tells where cgroups are looked for, below roots as those of
// Config, empty ones meaning the same. A cgroup can be metered if it is in each
// of required: one directory on v2; on v1 those of CPU accounting and memory,
// which may be one. unified is the v2 hierarchy, empty if there is none. It
// returns ErrNoController where neither can be had.
func Hierarchies(procRoot, cgroupRoot string) (required []string, unified string, err error) {
	if !supported {
		return nil, "", ErrNotSupported
	}
	if procRoot == "" {
		procRoot = "/proc"
	}
	l, err := findLayout(procRoot, cgroupRoot)
	if err != nil {
		return nil, "", err
	}
	for _, c := range []controller{controllerCPUAcct, controllerMemory} {
		if l[c].version != 0 && !contains(required, l[c].root) {
			required = append(required, l[c].root)
		}
	}
	if len(required) == 0 {
		return nil, "", fmt.Errorf("neither CPU nor memory is accounted for: %w", ErrNoController)
	}
	return required, l[controllerPressure].root, nil
}

// findLayout looks where the controllers are: below root if it is given, else
// at the cgroup mounts of this process.
func findLayout(proc, root string) (layout, error) {
	var mounts []mount
	if root != "" {
		mounts = mountsBelow(root)
	} else {
		text, err := os.ReadFile(proc + "/self/mountinfo")
		if err != nil {
			return layout{}, fmt.Errorf("find cgroup hierarchies: %w", err)
		}
		if mounts, err = parseMountinfo(text); err != nil {
			return layout{}, fmt.Errorf("find cgroup hierarchies: mountinfo: %w", err)
		}
	}
	var onUnified []string
	for _, m := range mounts {
		if m.version == 2 {
			text, err := os.ReadFile(m.path + "/cgroup.controllers")
			if err != nil {
				return layout{}, fmt.Errorf("find cgroup hierarchies: %w", err)
			}
			onUnified = strings.Fields(string(text))
			break
		}
	}
	if len(mounts) == 0 {
		return layout{}, fmt.Errorf("find cgroup hierarchies: none is mounted: %w", ErrNoController)
	}
	return decide(mounts, onUnified), nil
}

// mountsBelow takes root as /sys/fs/cgroup would be: v2 itself, or a directory
// of v1 hierarchies with perhaps a "unified" among them.
func mountsBelow(root string) []mount {
	is := func(dir, file string) bool {
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	}
	if is(root, "cgroup.controllers") {
		return []mount{{path: root, version: 2, whole: true}}
	}
	var mounts []mount
	for _, name := range controllerNames {
		if dir := filepath.Join(root, name); name != "" && is(dir, "") {
			mounts = append(mounts, mount{path: dir, version: 1, controllers: []string{name}, whole: true})
		}
	}
	if dir := filepath.Join(root, "unified"); is(dir, "cgroup.controllers") {
		mounts = append(mounts, mount{path: dir, version: 2, whole: true})
	}
	return mounts
}
