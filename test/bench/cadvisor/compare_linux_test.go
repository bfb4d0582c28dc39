package cadvisor_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/discovery"
	"github.com/nodekit/nodekit/metrics/machine"
	"github.com/nodekit/nodekit/test/bench/cadvisor"
)

// containers makes two cgroups of the test's own in all hierarchies: one with a
// process that sleeps and limits of its own, one with nothing.
func containers(t *testing.T) (parent string) {
	t.Helper()
	kerneltest.Require(t, kerneltest.Root, kerneltest.Cgroup)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	parent = fmt.Sprintf("/nodekit-compare-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	var roots []string
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		_, kind, _ := strings.Cut(line, " - cgroup")
		if kind == "" || strings.Contains(kind, "name=") || strings.Contains(kind, "cpuset") || !strings.HasPrefix(words[4], "/sys/fs/cgroup") {
			continue
		}
		roots = append(roots, words[4])
	}
	script := ""
	for _, root := range roots {
		for _, name := range []string{"", "/busy", "/idle"} {
			dir := root + parent + name
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { remove(t, dir) })
			if name == "" {
				delegate(t, root)
				delegate(t, dir)
			}
		}
		busy := root + parent + "/busy/"
		for file, value := range map[string]string{"cpu.cfs_quota_us": "50000", "cpu.max": "50000 100000",
			"memory.limit_in_bytes": "67108864", "memory.max": "67108864", "pids.max": "100"} {
			if _, err := os.Stat(busy + file); err == nil {
				if err := os.WriteFile(busy+file, []byte(value), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		script += "echo $$ > " + busy + "cgroup.procs && "
	}
	cmd := exec.Command("/bin/sh", "-c", script+"head -c 8388608 /dev/zero >/dev/null && echo ready && read _")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	return parent
}

func delegate(t *testing.T, dir string) {
	t.Helper()
	names, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return // v1
	}
	for name := range strings.FieldsSeq(string(names)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// remove waits for the processes to be gone.
func remove(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("remove %s: %v", dir, err)
			return
		}
	}
}

// exposition is what a scrape says: values by series, and of each family its
// type and the names of its labels.
type exposition struct {
	values map[string]float64
	shape  map[string]string
}

var (
	seriesLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// parse takes series of the node and of cgroups below parent.
func parse(t *testing.T, text, parent string) exposition {
	t.Helper()
	e := exposition{map[string]float64{}, map[string]string{}}
	types := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if words := strings.Fields(line); len(words) > 3 && words[1] == "TYPE" {
			types[words[2]] = words[3]
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("no series: %q", line)
		}
		var names, pairs []string
		id := "/"
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			names = append(names, pair[1])
			pairs = append(pairs, pair[1]+"="+pair[2])
			if pair[1] == "id" {
				id = pair[2]
			}
		}
		if id != "/" && !strings.HasPrefix(id+"/", parent+"/") {
			continue
		}
		slices.Sort(names)
		slices.Sort(pairs)
		e.shape[m[1]] = types[m[1]] + " " + strings.Join(names, ",")
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		e.values[m[1]+"{"+strings.ReplaceAll(strings.Join(pairs, ","), parent, "PARENT")+"}"] = value
	}
	return e
}

func nodekit(t *testing.T, parent string) string {
	t.Helper()
	found, err := discovery.New(discovery.Config{Below: parent})
	if err != nil {
		t.Fatal(err)
	}
	// cAdvisor meters the parent too.
	both := targets{found, parent}
	meter, err := metrics.New(metrics.Config{Targets: both, Sockets: true})
	if err != nil {
		t.Fatal(err)
	}
	hardware, err := machine.New(machine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := hardware.WriteMetrics(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if err := meter.WriteCAdvisor(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type targets struct {
	*discovery.Discovery
	parent string
}

// Targets gives the parent with those below it.
func (p targets) Targets(ctx context.Context) ([]metrics.Target, error) {
	list, err := p.Discovery.Targets(ctx)
	return append(slices.Clone(list), metrics.Target{Cgroup: p.parent, Container: p.parent}), err
}

// TestFamiliesAndLabelsAreCAdvisors runs cAdvisor's library and a Meter on the
// same cgroups. Each difference has its reason in differences.go, or the test
// fails and shows it.
func TestFamiliesAndLabelsAreCAdvisors(t *testing.T) {
	parent := containers(t)
	peer, err := cadvisor.Start(parent, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Close(); err != nil {
			t.Error(err)
		}
	})
	// The kernel adds up its counters some time later, so figures that differ are
	// looked at again.
	var explained, open []string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := peer.Round(); err == nil && peer.Knows(parent+"/busy") && peer.Knows(parent+"/idle") {
			var text strings.Builder
			if err := peer.Write(context.Background(), &text); err != nil {
				t.Fatal(err)
			}
			theirs, ours := parse(t, text.String(), parent), parse(t, nodekit(t, parent), parent)
			if len(theirs.values) < 100 || len(ours.values) < 100 {
				t.Fatalf("%d series of cAdvisor, %d of nodekit: something was not metered", len(theirs.values), len(ours.values))
			}
			if explained, open = compare(theirs, ours); len(open) == 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("differences without a reason, or a cgroup that was not found within a minute:\n%s", strings.Join(open, "\n"))
		}
	}
	for _, line := range explained {
		t.Log(line)
	}
}

// compare lists the families and series that differ: those with a reason, and
// those without.
func compare(theirs, ours exposition) (explained, open []string) {
	tell := func(name, series string, want, got any, has, have, same bool) {
		kind := "other"
		switch {
		case !have:
			kind = "missing"
		case !has:
			kind = "more"
		case same:
			return
		}
		line := fmt.Sprintf("%s: %s: cAdvisor %v, nodekit %v", kind, cmp.Or(series, name), want, got)
		if reason := reasonOf(kind, name, series); reason != "" {
			explained = append(explained, line+": "+reason)
		} else {
			open = append(open, line)
		}
	}
	for _, name := range both(theirs.shape, ours.shape) {
		want, has := theirs.shape[name]
		got, have := ours.shape[name]
		tell(name, "", want, got, has, have, want == got)
	}
	for _, key := range both(theirs.values, ours.values) {
		name, _, _ := strings.Cut(key, "{")
		if shape := theirs.shape[name]; shape == "" || shape != ours.shape[name] {
			continue // said of the family
		}
		want, has := theirs.values[key]
		got, have := ours.values[key]
		tell(name, key, want, got, has, have, want == got)
	}
	return explained, open
}

// both gives the keys of either, sorted.
func both[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}
