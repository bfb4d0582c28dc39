package discovery_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/discovery"
)

func TestDiscovery(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute) // for a machine that is busy
	RunSpecs(t, "metrics/discovery")
}

// patience is for a machine that is busy with others.
const patience = "60s"

// tree is a part of the machine's cgroups, or of a directory, that is a test's own.
type tree struct {
	roots []string // in each of which a cgroup must be
	below string
}

// kernelTree makes one of cgroups, and removes it at the end.
func kernelTree() *tree {
	GinkgoHelper()
	kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup)
	roots, unified, err := metrics.Hierarchies("", "")
	Expect(err).NotTo(HaveOccurred())
	if unified != "" && !slices.Contains(roots, unified) {
		roots = append(roots, unified) // where processes' ends are told
	}
	t := &tree{roots: roots, below: fmt.Sprintf("/nodekit-discovery-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	t.make("")
	for _, root := range t.roots {
		delegate(root)
		delegate(filepath.Join(root, t.below))
	}
	DeferCleanup(func() {
		for _, root := range t.roots {
			removeAll(filepath.Join(root, t.below))
		}
	})
	return t
}

// delegate gives the cgroups below dir what dir has, which v2 wants to be asked for.
func delegate(dir string) {
	GinkgoHelper()
	names, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return // v1
	}
	for name := range strings.FieldsSeq(string(names)) {
		Expect(os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)).To(Succeed())
	}
}

// plainTree makes one of directories.
func plainTree() (*tree, string) {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	Expect(os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu memory\n"), 0o644)).To(Succeed())
	return &tree{roots: []string{dir}}, dir
}

func (t *tree) make(name string) {
	GinkgoHelper()
	for _, root := range t.roots {
		Expect(os.Mkdir(filepath.Join(root, t.below, name), 0o755)).To(Or(Succeed(), MatchError(os.ErrExist)))
	}
}

func (t *tree) remove(name string) {
	GinkgoHelper()
	for _, root := range t.roots {
		Eventually(func() error { return unix.Rmdir(filepath.Join(root, t.below, name)) }, patience).Should(Succeed())
	}
}

func removeAll(dir string) {
	GinkgoHelper()
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeAll(filepath.Join(dir, e.Name()))
		}
	}
	Eventually(func() error {
		if err := unix.Rmdir(dir); err != unix.ENOENT {
			return err
		}
		return nil
	}, patience).Should(Succeed())
}

// needs declares what a method wants of the machine.
func needs(method discovery.Method) {
	GinkgoHelper()
	if method == discovery.Fanotify {
		kerneltest.Require(GinkgoT(), kerneltest.Fanotify)
	}
}

func start(cfg discovery.Config) *discovery.Discovery {
	GinkgoHelper()
	cfg.Logger = GinkgoLogr
	d, err := discovery.New(cfg)
	Expect(err).NotTo(HaveOccurred())
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	DeferCleanup(func() {
		cancel()
		Eventually(done, patience).Should(Receive(BeNil()))
		Expect(goleak.Find(before)).To(Succeed())
	})
	Eventually(d.Stats, patience).Should(HaveField("Scans", BeNumerically(">=", 1)))
	return d
}

// found gives the paths below the tree, sorted.
func (t *tree) found(d *discovery.Discovery) []string {
	GinkgoHelper()
	targets, err := d.Targets(context.Background())
	Expect(err).NotTo(HaveOccurred())
	names := []string{}
	for _, one := range targets {
		rel, err := filepath.Rel("/"+t.below, one.Cgroup)
		Expect(err).NotTo(HaveOccurred())
		names = append(names, rel)
	}
	slices.Sort(names)
	return names
}

var _ = Describe("Discovery", func() {
	DescribeTable("hears of cgroups that come and go", Label("kernel"), func(first discovery.Method, period time.Duration) {
		t := kernelTree()
		needs(first)
		t.make("old")
		d := start(discovery.Config{Below: t.below, First: first, Rescan: period})
		Expect(d.Stats().Method).To(Equal(first))
		Expect(t.found(d)).To(Equal([]string{"old"}))
		now := func() []string { return t.found(d) }

		t.make("pod")
		t.make("pod/c1")
		t.make("pod/c2")
		Eventually(now, patience).Should(Equal([]string{"old", "pod", "pod/c1", "pod/c2"}))
		t.remove("pod/c1")
		Eventually(now, patience).Should(Equal([]string{"old", "pod", "pod/c2"}))
		t.remove("pod/c2")
		t.remove("pod")
		t.remove("old")
		Eventually(now, patience).Should(BeEmpty())
		Eventually(d.Stats, patience).Should(HaveField("Cgroups", 0))
		if first == discovery.Rescan {
			Expect(d.Stats().Events).To(BeZero())
		} else {
			Expect(d.Stats().Scans).To(Equal(uint64(1)), "it was found by reading the tree, not by an event")
		}
	},
		Entry("by fanotify", discovery.Fanotify, time.Hour),
		Entry("by inotify", discovery.Inotify, time.Hour),
		Entry("by reading the tree", discovery.Rescan, 20*time.Millisecond),
	)

	It("misses nothing of a tree that changes while it is read", Label("kernel"), func() {
		t := kernelTree()
		d := start(discovery.Config{Below: t.below, Rescan: 5 * time.Millisecond})
		var want []string
		for i := range 200 {
			name := fmt.Sprintf("c%03d", i)
			t.make(name)
			t.make(name + "/inner")
			if i%4 == 0 {
				want = append(want, name, name+"/inner")
				continue
			}
			t.remove(name + "/inner")
			t.remove(name)
		}
		Eventually(func() []string { return t.found(d) }, patience).Should(Equal(want))
		scans := d.Stats().Scans
		Eventually(d.Stats, patience).Should(HaveField("Scans", BeNumerically(">", scans+2)))
		Expect(t.found(d)).To(Equal(want))
	})

	DescribeTable("tells of the last process's end while the cgroup is there", Label("kernel"), func(first discovery.Method, need kerneltest.Need) {
		kerneltest.Require(GinkgoT(), need)
		needs(first)
		t := kernelTree()
		t.make("c1")
		var mu sync.Mutex
		var ended []string
		d := start(discovery.Config{Below: t.below, First: first, OnChange: func(emptied ...string) {
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, emptied...)
		}})
		Expect(d.Stats().Method).To(Equal(first))
		_, unified, err := metrics.Hierarchies("", "")
		Expect(err).NotTo(HaveOccurred())
		runIn(filepath.Join(unified, t.below, "c1"))
		Eventually(func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(ended) }, patience).
			Should(ContainElement(t.below + "/c1"))
	},
		Entry("by fanotify", discovery.Fanotify, kerneltest.Cgroup2),
		Entry("by inotify", discovery.Inotify, kerneltest.Unified),
	)

	It("keeps no more than Max and says so", func() {
		t, dir := plainTree()
		for i := range 10 {
			t.make(fmt.Sprint("c", i))
		}
		d := start(discovery.Config{CgroupRoot: dir, First: discovery.Rescan, Rescan: 10 * time.Millisecond, Max: 4})
		Expect(t.found(d)).To(HaveLen(4))
		Expect(d.Stats()).To(And(HaveField("Cgroups", 4), HaveField("Ignored", 6)))
	})

	It("asks for names again when told to", func() {
		t, dir := plainTree()
		t.make("c1")
		t.make("c2")
		var mu sync.Mutex
		pod := ""
		d := start(discovery.Config{CgroupRoot: dir, First: discovery.Rescan, Rescan: time.Hour, Describe: func(cgroup string) (metrics.Target, bool) {
			mu.Lock()
			defer mu.Unlock()
			return metrics.Target{Pod: pod}, cgroup == "/c1"
		}})
		Expect(d.Targets(context.Background())).To(Equal([]metrics.Target{{Cgroup: "/c1"}}))
		mu.Lock()
		pod = "web"
		mu.Unlock()
		Expect(d.Targets(context.Background())).To(Equal([]metrics.Target{{Cgroup: "/c1"}}))
		d.Rename()
		Expect(d.Targets(context.Background())).To(Equal([]metrics.Target{{Cgroup: "/c1", Pod: "web"}}))
	})

	It("works without Run, and runs once", func() {
		t, dir := plainTree()
		d, err := discovery.New(discovery.Config{CgroupRoot: dir})
		Expect(err).NotTo(HaveOccurred())
		Expect(t.found(d)).To(BeEmpty())
		t.make("c1")
		Expect(t.found(d)).To(Equal([]string{"c1"}))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		Expect(d.Run(ctx)).To(Succeed())
		Expect(d.Run(ctx)).To(MatchError(discovery.ErrRunning))
	})

	It("says so where there is no hierarchy", func() {
		d, err := discovery.New(discovery.Config{CgroupRoot: GinkgoT().TempDir()})
		Expect(err).NotTo(HaveOccurred())
		Expect(d.Run(context.Background())).To(MatchError(metrics.ErrNoController))
	})

	It("reports all bad fields together", func() {
		_, err := discovery.New(discovery.Config{First: 9, Rescan: -1, Max: -1, Below: "a"})
		Expect(err).To(MatchError(And(ContainSubstring("First"), ContainSubstring("Rescan"), ContainSubstring("Max"), ContainSubstring("Below"))))
	})
})

// runIn runs a process to its end in a cgroup.
func runIn(dir string) {
	GinkgoHelper()
	Expect(exec.Command("/bin/sh", "-c", "echo $$ > "+dir+"/cgroup.procs").Run()).To(Succeed())
}

func Example() {
	dir, err := os.MkdirTemp("", "cgroup")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	// What /sys/fs/cgroup looks like on v2.
	_ = os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu memory\n"), 0o644)
	_ = os.MkdirAll(filepath.Join(dir, "system.slice/ssh.service"), 0o755)

	found, err := discovery.New(discovery.Config{CgroupRoot: dir, Below: "/system.slice"})
	if err != nil {
		panic(err)
	}
	targets, err := found.Targets(context.Background())
	fmt.Println(targets[0].Cgroup, err)
	// Output: /system.slice/ssh.service <nil>
}
