//go:build faultpoints

package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// killPointsEnv is how many points each spec takes, chosen by the suite's seed;
// "all" takes all.
const killPointsEnv = "NODEKIT_KILL_POINTS"

const killPointsDefault = 10

var _ = Describe("the kill matrix", func() {
	var m *matrix
	BeforeEach(func() { m = newMatrix() })

	It("of the agent at each of its points", func(ctx SpecContext) {
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of its points, and at each of those of its recovery", func(ctx SpecContext) {
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killAgent(ctx, point, true) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of the shim's points", func(ctx SpecContext) {
		m.each(m.points(ctx, "shim/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the shim at each of its points", func(ctx SpecContext) {
		m.each(m.points(ctx, "shim/"), func(point string) error { return m.killShim(ctx, point) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of its points, with user namespaces and volumes", func(ctx SpecContext) {
		m.mapped = true
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the shim at each of its points, with user namespaces and volumes", func(ctx SpecContext) {
		m.mapped = true
		m.each(m.points(ctx, "shim/"), func(point string) error { return m.killShim(ctx, point) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of its points, with CNI plug-ins", func(ctx SpecContext) {
		m.plugged = true
		m.fresh()
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of its points, with containers that run together", func(ctx SpecContext) {
		m.together = true
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the agent at each of the shim's points, with containers that run together", func(ctx SpecContext) {
		m.together = true
		m.each(m.points(ctx, "shim/"), func(point string) error { return m.killAgent(ctx, point, false) })
	}, NodeTimeout(time.Hour))

	It("of the shim at each of its points, with containers that run together", func(ctx SpecContext) {
		m.together = true
		m.each(m.points(ctx, "shim/"), func(point string) error { return m.killShim(ctx, point) })
	}, NodeTimeout(time.Hour))

	It("of the shim at each of the agent's points", func(ctx SpecContext) {
		m.each(m.points(ctx, "agent/"), func(point string) error { return m.killShim(ctx, point) })
	}, NodeTimeout(time.Hour))
})

// matrix lives one life after another on one Root, in which there is never more
// than one pod. Its IPv4 subnet has one address: one that leaks is missed at once.
type matrix struct {
	e        *env
	baseline []string
	lives    int
	random   *rand.Rand
	mapped   bool // the lives are
	// handlers are those of each Root, wrap is the directory of a mortal one.
	handlers map[string]string
	wrap     string
	plugged  bool // CNI plug-ins make the network
	together bool
}

var killShimProgram = func() func() string {
	path := ""
	return func() string {
		if path == "" {
			dir, err := os.MkdirTemp("", "nodekit-kill-")
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { path = ""; _ = os.RemoveAll(dir) })
			path = filepath.Join(dir, "nodekit-shim")
			build := exec.Command("go", "build", "-tags", "faultpoints", "-o", path, "./nodekit-shim")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			out, err := build.CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(out))
		}
		return path
	}
}()

func newMatrix() *matrix {
	kerneltest.Require(GinkgoTB(), kerneltest.Nft)
	m := &matrix{random: rand.New(rand.NewPCG(GinkgoRandomSeed64(), 3))}
	m.fresh()
	return m
}

// fresh begins on a new Root.
func (m *matrix) fresh() {
	m.e = prepareEnv(GinkgoTB())
	m.e.cfg.ShimPath, m.e.cfg.RuntimeHandlers = killShimProgram(), m.handlers
	m.e.cfg.Network.Subnets = []netip.Prefix{netip.MustParsePrefix("10.89.0.0/30"), netip.MustParsePrefix("fd89::/126")}
	if m.plugged {
		m.e = newCNIEnv(map[string]string{"10-narrow.conflist": strings.NewReplacer(".0/24", ".0/30", "::/64", "::/126").Replace(wholeNetwork)}).env
		m.e.close()
		m.e.cfg.ShimPath = killShimProgram()
	}
	m.e.open()
	m.e.image = m.e.pull(m.e.images.Prog)
	if m.plugged {
		m.e.sandbox(hostPort(1)) // bridge and tables are the plug-ins', and stay
	}
	Expect(m.e.rt.Purge(m.e.ctx())).To(Succeed())
	m.e.close()
	m.e.rt = nil // each life opens its own
	m.baseline = m.e.census()
}

// clear takes away what a life has left, which was told.
func (m *matrix) clear() {
	_ = os.Unsetenv(shim.FaultDirEnv)
	if rt, err := oci.Open(m.e.cfg); err == nil {
		_ = rt.Purge(m.e.ctx())
		_ = rt.Close()
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if dir := strings.Fields(line)[4]; strings.HasPrefix(dir, m.e.cfg.Root) {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
}

// each runs f for a sample of the points, tells all that is wrong, and begins
// anew after each that is.
func (m *matrix) each(points []string, f func(point string) error) {
	all := len(points)
	sample := killPointsDefault
	if n, err := strconv.Atoi(os.Getenv(killPointsEnv)); err == nil {
		sample = n
	}
	if os.Getenv(killPointsEnv) != "all" && sample < len(points) {
		m.random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		points = points[:sample]
	}
	var bad []string
	begin := time.Now()
	for _, point := range points {
		at := time.Now()
		err := f(point)
		if d := time.Since(at); d > 5*time.Second {
			GinkgoWriter.Println("slow:", point, d)
		}
		if err != nil {
			bad = append(bad, point+": "+err.Error())
			m.clear()
			m.fresh()
		}
	}
	GinkgoWriter.Printf("%d of %d points, %d lives, %v\n", len(points), all, m.lives, time.Since(begin).Round(time.Second))
	AddReportEntry("points", fmt.Sprintf("%d of %d, %v", len(points), all, time.Since(begin).Round(time.Second)))
	Expect(bad).To(BeEmpty(), strings.Join(bad, "\n"))
}

// newLife is of a pod of its own.
func (m *matrix) newLife() *life {
	m.lives++
	l := newLife(m.e, fmt.Sprintf("life-%d", m.lives))
	l.Mapped, l.Together = m.mapped, m.together
	return l
}

// plan makes a directory for fault points, with a kill to do.
func (m *matrix) plan(where, victim string) string {
	dir, err := os.MkdirTemp(GinkgoT().TempDir(), "faults-")
	Expect(err).NotTo(HaveOccurred())
	if where != "" {
		Expect(os.WriteFile(filepath.Join(dir, "plan"), []byte(where+": "+victim), 0o600)).To(Succeed())
	}
	return dir
}

func planDone(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "done"))
	return err == nil
}

// points are those of a life that nobody cuts short, in their order.
func (m *matrix) points(ctx context.Context, role string) []string {
	dir := m.plan("", "")
	l := m.newLife()
	_, err := m.agent(l, dir)
	Expect(err).NotTo(HaveOccurred())
	Expect(l.Step).To(BeEquivalentTo(stepEnd))
	Expect(m.finish(ctx, l)).To(Succeed())
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	Expect(err).NotTo(HaveOccurred())
	var points []string
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, role) {
			points = append(points, strings.TrimSpace(line))
		}
	}
	Expect(len(points)).To(BeNumerically(">", 30))
	return points
}

// agent lives a life in a process of its own, to its end or its kill, and puts
// what was told into l.
func (m *matrix) agent(l *life, faults string) (killed bool, err error) {
	_ = os.Setenv(shim.FaultDirEnv, faults)
	a := m.e.agent(agentJob{Life: l})
	_ = os.Unsetenv(shim.FaultDirEnv)
	for {
		line, ok := a.next("life")
		if !ok {
			break
		}
		if err := json.Unmarshal([]byte(line), l); err != nil {
			return false, err
		}
	}
	err = a.cmd.Wait()
	if planDone(faults) {
		return true, nil
	}
	return false, err
}

// killAgent kills the agent at a point and has another go on. With again the
// agents that follow are killed too, each one point later.
func (m *matrix) killAgent(ctx context.Context, point string, again bool) error {
	l := m.newLife()
	l.lastingExec(point)
	killed, err := m.agent(l, m.plan(point, "agent"))
	l.ExecTime = ""
	if err != nil {
		return fmt.Errorf("before the kill: %w", err)
	}
	if !killed {
		GinkgoWriter.Println("not met:", point)
	}
	for n := 1; again && killed; n++ {
		later := &life{Step: stepEnd}
		if killed, err = m.agent(later, m.plan("agent/*#"+strconv.Itoa(n), "agent")); err != nil {
			return fmt.Errorf("recovery to be killed at point %d: %w", n, err)
		}
	}
	rt, err := oci.Open(m.e.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = rt.Close() }()
	if err := l.verify(ctx, rt); err != nil {
		return fmt.Errorf("during %s, after the kill: %w", l.name(), err)
	}
	if err := l.live(ctx, rt, func() {}); err != nil {
		return fmt.Errorf("repeated: %w", err)
	}
	if err := l.verify(ctx, rt); err != nil {
		return fmt.Errorf("at its end: %w", err)
	}
	if err := rt.Close(); err != nil {
		return err
	}
	return m.finish(ctx, l)
}

// killShim kills the shim at a point under an agent that lives on.
func (m *matrix) killShim(ctx context.Context, point string) error {
	l := m.newLife()
	l.lastingExec(point)
	faults := m.plan(point, "shim")
	_ = os.Setenv(shim.FaultDirEnv, faults)
	defer func() { _ = os.Unsetenv(shim.FaultDirEnv) }()
	rt, err := oci.Open(m.e.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = rt.Close() }()
	lived := l.live(ctx, rt, func() {})
	if lived != nil && !planDone(faults) {
		return fmt.Errorf("without a kill: %w", lived)
	}
	l.lost, l.ExecTime = planDone(faults), ""
	if lived != nil {
		if err := l.settle(ctx, rt); err != nil {
			return fmt.Errorf("after the kill, %w: %w", lived, err)
		}
		before, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{})
		if err != nil {
			return err
		}
		// The next agent tells the same.
		if err := rt.Close(); err != nil {
			return err
		}
		if rt, err = oci.Open(m.e.cfg); err != nil {
			return err
		}
		defer func() { _ = rt.Close() }()
		if err := l.verify(ctx, rt); err != nil {
			return fmt.Errorf("by the next agent: %w", err)
		}
		after, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{})
		if err != nil {
			return err
		}
		if !slices.EqualFunc(before, after, sameEnd) {
			return fmt.Errorf("the next agent tells %+v instead of %+v", after, before)
		}
		if err := l.over(ctx, rt); err != nil {
			return err
		}
	}
	if err := rt.Close(); err != nil {
		return err
	}
	return m.finish(ctx, l)
}

func sameEnd(a, b runtimeiface.Container) bool {
	return a.ID == b.ID && a.State == b.State && a.ExitCode == b.ExitCode && a.Reason == b.Reason &&
		a.StartedAt.Equal(b.StartedAt) && a.FinishedAt.Equal(b.FinishedAt)
}

// lastingExec has the command live longer than a kill during it.
func (l *life) lastingExec(point string) {
	if strings.Contains(point, "exec ") || strings.Contains(point, "exec#") {
		l.ExecTime = "3s"
	}
}

// settle waits until the agent knows that a shim is gone, and verifies.
func (l *life) settle(ctx context.Context, rt *oci.Runtime) (err error) {
	for range 1000 {
		list, lerr := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{State: runtimeiface.SandboxReady})
		if lerr != nil {
			return lerr
		}
		if err = l.verify(ctx, rt); err == nil && len(list) == 0 {
			return nil
		}
		if err == nil {
			err = errors.New("the sandbox stays ready")
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// over ends a life whose sandbox is lost, or begins it again if nothing was made.
func (l *life) over(ctx context.Context, rt *oci.Runtime) error {
	list, err := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: l.UID})
	if err != nil {
		return err
	}
	switch {
	case len(list) == 0 && l.Step == stepRunSandbox:
		l.lost = false
	case l.Step < stepStopSandbox:
		l.Step = stepStopSandbox
		if l.Sandbox == "" {
			l.Sandbox = list[0].ID
		}
	}
	return l.live(ctx, rt, func() {})
}

// finish looks for what is left of a life, and whether its address is free.
func (m *matrix) finish(ctx context.Context, l *life) error {
	for _, name := range []string{"app", "job"} {
		if n := l.runs(name); n > 1 {
			return fmt.Errorf("%s ran %d times", name, n)
		}
	}
	if err := m.settleCensus(); err != nil {
		return err
	}
	rt, err := oci.Open(m.e.cfg)
	if err != nil {
		return err
	}
	probe := m.e.sandboxSpec()
	probe.LogDirectory = ""
	if _, err = rt.RunSandbox(ctx, probe); err == nil {
		err = rt.Purge(ctx)
	}
	return errors.Join(err, rt.Close())
}

func (m *matrix) settleCensus() error {
	var more, less []string
	for range 200 {
		now := m.e.census()
		more = slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(m.baseline, s) })
		less = slices.DeleteFunc(slices.Clone(m.baseline), func(s string) bool { return slices.Contains(now, s) })
		if len(more)+len(less) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("left behind: %q, missing: %q", more, less)
}
