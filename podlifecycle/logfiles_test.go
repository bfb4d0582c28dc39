package podlifecycle_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A log that has grown is moved aside and goes on in a new file; of the files of a
// log the newest stay, and those of instances that are gone go.
func TestLogRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.tune = func(c *podlifecycle.Config) { c.LogRotation = logs.Policy{MaxSize: 100, MaxFiles: 3} }
		r.start()
		r.set(newPod("web"))
		r.settle()
		path := r.container("app").LogPath
		for range 4 {
			write(t, path, string(make([]byte, 100)))
			r.pass(10 * time.Second)
		}
		if names := namesIn(t, filepath.Dir(path)); len(names) != 3 || names[0] != "0.log" {
			t.Errorf("files %v", names)
		}
		if n := len(r.fake.Calls(runtimetest.OpReopenLog)); n != 4 {
			t.Errorf("%d times reopened", n)
		}
		e, err := r.m.Why("default", "web")
		if err != nil || !slices.ContainsFunc(e.Records, func(rec podlifecycle.Record) bool { return rec.Rule == podlifecycle.RuleLogs && rec.Count >= 4 }) {
			t.Errorf("no record of it: %v", e)
		}
		for range 3 {
			if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
				t.Fatal(err)
			}
			r.pass(2 * time.Minute)
		}
		if names := namesIn(t, filepath.Dir(path)); !slices.Equal(names, []string{"2.log", "3.log"}) {
			t.Errorf("files %v: the newest and the one before stay", names)
		}
	})
}

// A runtime that keeps the logs itself is asked once.
func TestLogRotationRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.tune = func(c *podlifecycle.Config) { c.LogRotation = logs.Policy{MaxSize: 100} }
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpReopenLog, Err: runtimeiface.ErrNotSupported})
		r.start()
		r.set(newPod("web"))
		r.settle()
		path := r.container("app").LogPath
		write(t, path, string(make([]byte, 100)))
		r.pass(time.Minute)
		if names := namesIn(t, filepath.Dir(path)); !slices.Equal(names, []string{"0.log"}) {
			t.Errorf("files %v: the log keeps its name", names)
		}
		if n := len(r.fake.Calls(runtimetest.OpReopenLog)); n != 1 {
			t.Errorf("%d times reopened", n)
		}
	})
}

// Each instance that has run has a link to its log for as long as it is there.
func TestLogLinks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		dir := filepath.Join(r.root, "links")
		r.tune = func(c *podlifecycle.Config) { c.LogLinks = dir }
		r.start()
		r.set(newPod("web"))
		r.settle()
		first := r.container("app")
		link := func(c runtimeiface.Container) string { return "web_default_app-" + c.ID + ".log" }
		if names := namesIn(t, dir); !slices.Equal(names, []string{link(first)}) {
			t.Fatalf("links %v", names)
		}
		if target, err := os.Readlink(filepath.Join(dir, link(first))); err != nil || target != first.LogPath {
			t.Errorf("the link leads to %s, %v", target, err)
		}
		for range 2 {
			if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
				t.Fatal(err)
			}
			r.pass(2 * time.Minute)
		}
		if names := namesIn(t, dir); len(names) != 2 || slices.Contains(names, link(first)) {
			t.Errorf("links %v: those of what is there stay", names)
		}
		// What an agent that was killed has left is found by the next one.
		r.kill()
		if err := os.Symlink(filepath.Join(r.root, "logs", "default_gone_uid", "app", "0.log"), filepath.Join(dir, "gone_default_app-1.log")); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.set(newPod("web"))
		r.settle()
		if names := namesIn(t, dir); len(names) != 2 {
			t.Errorf("links %v after a restart", names)
		}
		r.set()
		r.pass(time.Minute)
		if names := namesIn(t, dir); len(names) != 0 {
			t.Errorf("links %v are left", names)
		}
	})
}

// Directory, cgroup and logs of a pod that nobody knows go, once every source has
// spoken; as long as something is mounted there nothing of the directory does.
func TestStrays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		lost := filepath.Join(r.root, "pods", "lost", "containers")
		logDir := filepath.Join(r.root, "logs", "default_gone_lost")
		others := filepath.Join(r.root, "logs", "not-a-pod")
		write(t, filepath.Join(lost, "file"), "text")
		write(t, filepath.Join(logDir, "app", "0.log"), "text")
		write(t, filepath.Join(others, "0.log"), "text")
		write(t, filepath.Join(r.root, "logs", "default_web_uid-web", "app", "9.log"), "text")
		_ = r.cgroups.Ensure(t.Context(), "/kubepods/burstable/podlost", &specs.LinuxResources{})
		r.start()
		r.m.Set(source.Set{Pods: []*corev1.Pod{newPod("web")}, Waiting: []string{"http"}})
		r.pass(2 * time.Minute)
		if len(namesIn(t, lost)) == 0 || len(namesIn(t, logDir)) == 0 || r.cgroups.left() != 2 {
			t.Error("what a source may still want is gone")
		}
		r.volumes.fail(errBroken) // as if it were mounted
		r.set(newPod("web"))
		r.settle()
		if len(namesIn(t, lost)) == 0 {
			t.Error("the directory is gone though it could not be torn down")
		}
		r.volumes.fail(nil)
		r.pass(time.Minute)
		if names := namesIn(t, filepath.Join(r.root, "pods")); !slices.Equal(names, []string{"uid-web"}) {
			t.Errorf("directories of pods: %v", names)
		}
		if names := namesIn(t, filepath.Join(r.root, "logs")); !slices.Equal(names, []string{"default_web_uid-web", "not-a-pod"}) {
			t.Errorf("directories of logs: %v", names)
		}
		if r.cgroups.left() != 1 {
			t.Error("the cgroup of the lost pod is left")
		}
		if n := len(r.m.Records()); n == 0 {
			t.Error("no record of it")
		}
	})
}

// Logs in a directory that others may use are removed for a pod only that left
// more than them.
func TestStrayLogsOfOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		logRoot := t.TempDir()
		r.tune = func(c *podlifecycle.Config) { c.LogRoot = logRoot }
		write(t, filepath.Join(logRoot, "default_gone_lost", "app", "0.log"), "text")
		write(t, filepath.Join(logRoot, "default_other_foreign", "app", "0.log"), "text")
		write(t, filepath.Join(r.root, "pods", "lost", "file"), "text")
		r.start()
		r.set()
		r.settle()
		if names := namesIn(t, logRoot); !slices.Equal(names, []string{"default_other_foreign"}) {
			t.Errorf("directories of logs: %v", names)
		}
	})
}

// As many dead instances stay as the node keeps.
func TestKeptDead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.tune = func(c *podlifecycle.Config) { c.KeptDead = 3 }
		r.start()
		r.set(newPod("web"))
		r.settle()
		for range 6 {
			if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
				t.Fatal(err)
			}
			r.pass(6 * time.Minute)
		}
		var attempts []uint32
		for _, c := range r.fake.State().Containers {
			attempts = append(attempts, c.Attempt)
		}
		slices.Sort(attempts)
		if !slices.Equal(attempts, []uint32{3, 4, 5, 6}) {
			t.Errorf("instances %v are there", attempts)
		}
	})
}
