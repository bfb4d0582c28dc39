package metrics_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/metrics"
)

// targets is a Targets that a test may change.
type targets struct {
	mu   sync.Mutex
	list []metrics.Target
	err  error
	asks int
}

func (t *targets) Targets(context.Context) ([]metrics.Target, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asks++
	return append([]metrics.Target(nil), t.list...), t.err
}

func (t *targets) set(list ...metrics.Target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

func (t *targets) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

// machineTree is a copy of testdata/v2 that a test may spoil.
type machineTree struct {
	dir   string
	clock *testclock.FakeClock
	to    *targets
}

var epoch = time.Unix(1_800_000_000, 0)

var (
	podTarget = metrics.Target{Cgroup: "/kubepods/pod1", Namespace: "default", Pod: "web", PodUID: "u1", PID: 101, StartedAt: epoch.Add(-time.Hour)}
	appTarget = metrics.Target{
		Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1",
		Image: "registry.local/web:1", ImageID: "sha256:1", StartedAt: epoch.Add(-time.Minute),
	}
	sidecarTarget = metrics.Target{
		Cgroup: "/kubepods/pod1/c2", Namespace: "default", Pod: "web", PodUID: "u1", Container: "sidecar", ID: "c2",
		Image: `odd"image\name`, StartedAt: epoch.Add(-1500 * time.Millisecond),
	}
)

func newTree() *machineTree {
	GinkgoHelper()
	t := &machineTree{dir: GinkgoT().TempDir(), clock: testclock.NewFakeClock(epoch), to: &targets{}}
	Expect(os.CopyFS(t.dir, os.DirFS("testdata/v2"))).To(Succeed())
	t.to.set(podTarget, appTarget, sidecarTarget)
	return t
}

func (t *machineTree) config() metrics.Config {
	return metrics.Config{
		Targets: t.to, CgroupRoot: filepath.Join(t.dir, "cgroup"),
		ProcRoot: filepath.Join(t.dir, "proc"), SysRoot: filepath.Join(t.dir, "sys"), Clock: t.clock,
	}
}

func (t *machineTree) meter() *metrics.Meter {
	GinkgoHelper()
	m, err := metrics.New(t.config())
	Expect(err).NotTo(HaveOccurred())
	return m
}

// running gives a Meter in its Run, that has made its first round; it makes
// another only if asked.
func (t *machineTree) running(descriptors int) *metrics.Meter {
	GinkgoHelper()
	cfg := t.config()
	cfg.Interval, cfg.LimitsInterval, cfg.Descriptors = time.Hour, 24*time.Hour, descriptors
	return started(cfg)
}

// started gives a Meter in its Run, that has made its first round.
func started(cfg metrics.Config) *metrics.Meter {
	GinkgoHelper()
	m, err := metrics.New(cfg)
	Expect(err).NotTo(HaveOccurred())
	running(m)
	Eventually(m.Stats).Should(HaveField("Rounds", BeNumerically(">=", 1)))
	return m
}

func (t *machineTree) write(path, text string) {
	GinkgoHelper()
	Expect(os.WriteFile(filepath.Join(t.dir, path), []byte(text), 0o644)).To(Succeed())
}

func (t *machineTree) remove(path string) {
	GinkgoHelper()
	Expect(os.RemoveAll(filepath.Join(t.dir, path))).To(Succeed())
}

// burn sets the CPU time of a cgroup.
func (t *machineTree) burn(cgroup string, usec string) {
	GinkgoHelper()
	t.write("cgroup"+cgroup+"/cpu.stat", "usage_usec "+usec+"\nuser_usec 1\nsystem_usec 1\n")
}

// figure returns a figure of a target, and fails the test if it is not known.
func figure(m *metrics.Meter, cgroup string, f metrics.Field, maxAge time.Duration) uint64 {
	GinkgoHelper()
	s, err := m.Sample(context.Background(), cgroup, maxAge)
	Expect(err).NotTo(HaveOccurred())
	v, ok := s.Get(f)
	Expect(ok).To(BeTrue(), "field %d is not known: %v", f, s.Gaps)
	return v
}

func cadvisorText(m *metrics.Meter) string {
	GinkgoHelper()
	var b strings.Builder
	Expect(m.WriteCAdvisor(context.Background(), &b)).To(Succeed())
	return b.String()
}

func resourceText(m *metrics.Meter) string {
	GinkgoHelper()
	var b strings.Builder
	Expect(m.WriteResource(context.Background(), &b)).To(Succeed())
	return b.String()
}

func copyDir(from, to string) error { return os.CopyFS(to, os.DirFS(from)) }

func link(from, to string) error { return os.Link(from, to) }

// openFiles counts the descriptors of this process.
func openFiles() int {
	GinkgoHelper()
	entries, err := os.ReadDir("/proc/self/fd")
	Expect(err).NotTo(HaveOccurred())
	return len(entries)
}
