package probe_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/probe"
)

// script answers attempts of each kind in turn: s, f or e (no verdict); the last for ever.
type script struct {
	mu      sync.Mutex
	answers map[string]string // by the exec command's first word
	times   map[string][]time.Duration
	hosts   []string
	begun   time.Time
}

func (s *script) Probe(_ context.Context, target probe.Target, p *corev1.Probe) (probe.Result, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := p.Exec.Command[0]
	s.times[name] = append(s.times[name], time.Since(s.begun))
	s.hosts = append(s.hosts, target.Host)
	answers := s.answers[name]
	if len(answers) > 1 {
		s.answers[name] = answers[1:]
	}
	switch answers[0] {
	case 's':
		return probe.Success, "fine", nil
	case 'f':
		return probe.Failure, strings.Repeat("bad", 1000), nil
	}
	return probe.Unknown, "", errors.New("cannot run")
}

type world struct {
	*script
	manager *probe.Manager
	mu      sync.Mutex
	changes []string
	stop    func()
}

// start makes a running Manager in the current bubble.
func start(t *testing.T, answers map[string]string) *world {
	w := &world{script: &script{answers: answers, times: map[string][]time.Duration{}, begun: time.Now()}}
	var err error
	w.manager, err = probe.New(probe.Config{Prober: w.script, Seed: 1, Changed: func(c probe.Change) {
		got, ok := w.manager.Result(c.ContainerID, c.Kind) // no lock is held
		if ok && got != c.Result {
			t.Errorf("%s changed to %q, Result says %q", c.Kind, c.Result, got)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, fmt.Sprintf("%s %s %s %s", time.Since(w.begun), c.ContainerID, c.Kind, c.Result))
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.manager.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	return w
}

func (w *world) seen() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.changes)
}

func (w *world) attempts(name string) []time.Duration {
	synctest.Wait()
	w.script.mu.Lock()
	defer w.script.mu.Unlock()
	return slices.Clone(w.times[name])
}

func execProbe(name string, change func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}}
	if change != nil {
		change(p)
	}
	return p
}

func running(id string, startup, liveness, readiness *corev1.Probe) probe.Running {
	return probe.Running{ID: id, StartedAt: time.Now(), Container: &corev1.Container{Name: "app",
		StartupProbe: startup, LivenessProbe: liveness, ReadinessProbe: readiness}}
}

func pod(containers ...probe.Running) probe.Pod {
	return probe.Pod{UID: "u1", Host: "10.0.0.1", Containers: containers}
}

const second = time.Second

func TestVerdictsBeforeTheFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"s": "e", "l": "e", "r": "e"})
		defer w.stop()
		w.manager.Set(pod(running("c1", execProbe("s", nil), execProbe("l", nil), execProbe("r", nil)), running("c2", nil, nil, nil)))
		for kind, want := range map[probe.Kind]probe.Result{probe.Startup: probe.Unknown, probe.Liveness: probe.Success, probe.Readiness: probe.Failure} {
			got, ok := w.manager.Result("c1", kind)
			g.Expect(ok).To(BeTrue())
			g.Expect(got).To(Equal(want))
			_, ok = w.manager.Result("c2", kind)
			g.Expect(ok).To(BeFalse(), "no such probe")
		}
		_, ok := w.manager.Result("none", probe.Liveness)
		g.Expect(ok).To(BeFalse())
	})
}

func TestReadinessByThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"r": "fssfsffsfffs"})
		defer w.stop()
		w.manager.Set(pod(running("c1", nil, nil, execProbe("r", func(p *corev1.Probe) { p.SuccessThreshold = 2 }))))
		time.Sleep(120*second + 1)
		// 0f 10s 20s=ready 30f 40s 50f 60f 70s 80f 90f 100f=unready 110s 120s=ready
		g.Expect(w.seen()).To(Equal([]string{"20s c1 readiness success", "1m40s c1 readiness failure", "2m0s c1 readiness success"}))
		status := w.manager.Status("c1")
		g.Expect(status).To(HaveLen(1))
		g.Expect(status[0].Attempts).To(HaveLen(5), "the latest")
		g.Expect(status[0].Attempts[2].Output).To(HaveLen(1 << 10))
		g.Expect(status[0].Run).To(Equal(2))
		g.Expect(status[0].Threshold).To(Equal(2))
		g.Expect(time.Since(status[0].Since)).To(BeNumerically("<", second))
	})
}

func TestInitialDelayCountsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"r": "s", "l": "s"})
		defer w.stop()
		time.Sleep(3 * second)
		r := running("c1", nil, execProbe("l", nil), execProbe("r", func(p *corev1.Probe) { p.InitialDelaySeconds = 5 }))
		time.Sleep(2 * second) // somebody was slow
		w.manager.Set(pod(r))
		time.Sleep(4 * second)
		g.Expect(w.attempts("r")).To(Equal([]time.Duration{8 * second}))
		g.Expect(w.attempts("l")).To(Equal([]time.Duration{5 * second}), "at once")
	})
}

func TestStartedAtInTheFutureDoesNotBlockProbes(t *testing.T) { // kubernetes#123898
	synctest.Test(t, func(t *testing.T) {
		w := start(t, map[string]string{"r": "s"})
		defer w.stop()
		r := running("c1", nil, nil, execProbe("r", func(p *corev1.Probe) { p.InitialDelaySeconds = 5 }))
		r.StartedAt = time.Now().Add(10 * time.Hour)
		w.manager.Set(pod(r))
		time.Sleep(6 * second)
		NewWithT(t).Expect(w.attempts("r")).To(Equal([]time.Duration{5 * second}))
	})
}

func TestOthersWaitForStartup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"s": "ffs", "l": "s", "r": "s"})
		defer w.stop()
		w.manager.Set(pod(running("c1", execProbe("s", func(p *corev1.Probe) { p.PeriodSeconds = 1 }), execProbe("l", nil), execProbe("r", nil))))
		time.Sleep(25 * second)
		g.Expect(w.attempts("s")).To(Equal([]time.Duration{0, second, 2 * second}), "and then never again")
		g.Expect(w.attempts("r")).To(Equal([]time.Duration{2 * second, 12 * second, 22 * second}), "at once after it")
		g.Expect(w.attempts("l")).To(Equal([]time.Duration{2 * second, 12 * second, 22 * second}))
		g.Expect(w.seen()).To(Equal([]string{"2s c1 startup success", "2s c1 readiness success"}))
	})
}

func TestFailuresOfStartupAndLivenessAreFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"s": "f", "l": "sfffs", "r": "s"})
		defer w.stop()
		w.manager.Set(pod(running("c1", execProbe("s", nil), nil, execProbe("r", nil)), running("c2", nil, execProbe("l", nil), nil)))
		time.Sleep(time.Hour)
		g.Expect(w.seen()).To(ConsistOf("20s c1 startup failure", "30s c2 liveness failure"))
		g.Expect(w.attempts("s")).To(HaveLen(3))
		g.Expect(w.attempts("l")).To(HaveLen(4))
		g.Expect(w.attempts("r")).To(BeEmpty())

		// The next instance starts anew.
		w.manager.Set(pod(running("c3", nil, execProbe("l", nil), nil)))
		synctest.Wait()
		got, _ := w.manager.Result("c3", probe.Liveness)
		g.Expect(got).To(Equal(probe.Success))
		_, ok := w.manager.Result("c2", probe.Liveness)
		g.Expect(ok).To(BeFalse(), "forgotten")
	})
}

func TestAnErrorIsNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		// eee is one attempt, made three times.
		w := start(t, map[string]string{"l": "ffeeefs", "r": "eees"})
		defer w.stop()
		w.manager.Set(pod(running("c1", nil, execProbe("l", nil), execProbe("r", nil))))
		time.Sleep(second)
		status := w.manager.Status("c1")
		g.Expect(status[1].Kind).To(Equal(probe.Readiness))
		g.Expect(status[1].Attempts).To(HaveLen(1))
		g.Expect(status[1].Attempts[0].Err).To(Equal("cannot run"))
		time.Sleep(35 * second)
		g.Expect(w.attempts("l")).To(Equal([]time.Duration{0, 10 * second, 20 * second, 20 * second, 20 * second, 30 * second}))
		g.Expect(w.seen()).To(Equal([]string{"10s c1 readiness success", "30s c1 liveness failure"}), "the run of failures went on")
	})
}

func TestATerminatingPodIsProbedForReadinessOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"l": "s", "r": "sf"})
		defer w.stop()
		p := pod(running("c1", nil, execProbe("l", nil), execProbe("r", nil)))
		w.manager.Set(p)
		time.Sleep(5 * second)
		p.Terminating = true
		w.manager.Set(p)
		time.Sleep(30 * second)
		g.Expect(w.attempts("l")).To(HaveLen(1))
		g.Expect(w.attempts("r")).To(HaveLen(4))
		g.Expect(w.seen()).To(ContainElement("30s c1 readiness failure"))
	})
}

// An agent that comes back must not turn a ready pod unready (kubernetes#100277),
// nor forget that a sidecar had started (#136910).
func TestSeedsOutliveTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		time.Sleep(time.Hour)
		old := running("c1", execProbe("s", nil), execProbe("l", nil), execProbe("r", nil))
		old.StartedAt = old.StartedAt.Add(-time.Minute)
		old.Seed = map[probe.Kind]probe.Result{probe.Startup: probe.Success, probe.Readiness: probe.Success}
		w := start(t, map[string]string{"s": "f", "l": "s", "r": "sf"})
		defer w.stop()
		w.manager.Set(pod(old))
		got, _ := w.manager.Result("c1", probe.Readiness)
		g.Expect(got).To(Equal(probe.Success))
		got, _ = w.manager.Result("c1", probe.Startup)
		g.Expect(got).To(Equal(probe.Success))
		time.Sleep(25 * second)
		g.Expect(w.seen()).To(BeEmpty())
		g.Expect(w.attempts("s")).To(BeEmpty())
		first := w.attempts("r")[0]
		g.Expect(first).To(And(BeNumerically(">", 0), BeNumerically("<", 10*second)), "at a random moment of the first period")
		g.Expect(w.attempts("l")[0]).NotTo(Equal(first))
		time.Sleep(20 * second)
		g.Expect(w.seen()).To(HaveLen(1), "but what is so is told")
	})
}

func TestSetIsWholeAndMayComeAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := start(t, map[string]string{"r": "s", "q": "s"})
		p := pod(running("c1", nil, nil, execProbe("r", nil)), running("c2", nil, nil, execProbe("q", nil)))
		w.manager.Set(p)
		for range 5 { // again and again changes nothing
			time.Sleep(second)
			p.Host = "10.0.0.2"
			w.manager.Set(p)
		}
		time.Sleep(6 * second)
		g.Expect(w.attempts("r")).To(HaveLen(2))
		w.script.mu.Lock()
		g.Expect(w.hosts[len(w.hosts)-1]).To(Equal("10.0.0.2"))
		w.script.mu.Unlock()
		p.Containers = p.Containers[1:]
		w.manager.Set(p)
		time.Sleep(20 * second)
		g.Expect(w.attempts("r")).To(HaveLen(2))
		g.Expect(w.attempts("q")).To(HaveLen(4))
		g.Expect(w.manager.Status("c1")).To(BeNil())
		w.manager.Remove("u1")
		time.Sleep(20 * second)
		g.Expect(w.attempts("q")).To(HaveLen(4))
		w.stop()
		w.manager.Set(p) // too late, and harmless
	})
}

func TestSetBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string]string{"r": "s"}, times: map[string][]time.Duration{}, begun: time.Now()}
		changed := make(chan probe.Change, 1)
		m, err := probe.New(probe.Config{Prober: s, Changed: func(c probe.Change) { changed <- c }})
		if err != nil {
			t.Fatal(err)
		}
		r := running("c1", nil, nil, execProbe("r", nil))
		m.Set(probe.Pod{UID: "u1", Containers: []probe.Running{r}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = m.Run(ctx) }()
		c := <-changed
		cancel()
		synctest.Wait()
		NewWithT(t).Expect(c.PodUID).To(Equal(types.UID("u1")))
		NewWithT(t).Expect(c.Output).To(Equal("fine"))
	})
}

// A probe that hangs must not keep Run from ending.
func TestRunEndsDuringAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := probe.New(probe.Config{Prober: hanging{}, Changed: func(probe.Change) { t.Error("a verdict of a cancelled attempt") }})
		if err != nil {
			t.Fatal(err)
		}
		m.Set(pod(running("c1", nil, nil, execProbe("r", func(p *corev1.Probe) { p.SuccessThreshold = 1 }))))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		cancel()
		NewWithT(t).Expect(<-done).To(Succeed())
	})
}

type hanging struct{}

func (hanging) Probe(ctx context.Context, _ probe.Target, _ *corev1.Probe) (probe.Result, string, error) {
	<-ctx.Done()
	return probe.Success, "", nil
}

func TestNewReportsAllBadFields(t *testing.T) {
	_, err := probe.New(probe.Config{History: -1})
	NewWithT(t).Expect(err).To(MatchError(And(ContainSubstring("Prober"), ContainSubstring("Changed"), ContainSubstring("History"))))
}
