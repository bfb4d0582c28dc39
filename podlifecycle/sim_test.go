package podlifecycle_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Whole lives of a node: the Manager on the fake runtime in virtual time, with
// pods that come, change and go, programs that crash, calls that fail, hang or
// have their effect all the same, lost events, dying shims, reboots and
// restarts of the agent. After each step the invariants must hold; at the end,
// left in peace, everything wanted must run and nothing else must be left.
// NODEKIT_SIM_SEEDS sets how many, NODEKIT_SIM_SEED plays one again.
func TestSimulation(t *testing.T) {
	seeds, first := 30, 0
	if testing.Short() {
		seeds = 5
	}
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_SEED")); err == nil {
		seeds, first = 1, n
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { simulate(t, uint64(seed)) })
		})
	}
}

func simImages() []runtimetest.FakeImage {
	exit := func(after time.Duration, code int32) runtimetest.Program {
		return runtimetest.Program{Exit: &runtimetest.Exit{After: after, Code: code}}
	}
	return []runtimetest.FakeImage{
		{Ref: "web:1", PullTakes: time.Second}, {Ref: "web:2", PullTakes: 30 * time.Second},
		{Ref: "init:1", Program: exit(2*time.Second, 0)},
		{Ref: "job:1", Program: exit(90*time.Second, 0)},
		{Ref: "crash:1", Program: exit(7*time.Second, 3)},
		{Ref: "flaky:1", Choose: func(p runtimetest.Process) runtimetest.Program {
			if p.Attempt < 3 {
				return exit(time.Second, 1)
			}
			return runtimetest.Program{}
		}},
		{Ref: "deaf:1", Program: runtimetest.Program{IgnoreStop: true}},
		{Ref: "broken:1", Program: runtimetest.Program{StartError: "no such file"}},
	}
}

type sim struct {
	*rig
	rng     *rand.Rand
	desired map[string]*corev1.Pod
	serial  int
	phases  map[string]corev1.PodPhase
}

func simulate(t *testing.T, seed uint64) {
	s := &sim{rig: newRig(t, simImages()...), rng: rand.New(rand.NewPCG(seed, 2)), desired: map[string]*corev1.Pod{}, phases: map[string]corev1.PodPhase{}}
	s.start()
	s.apply()
	for range 60 {
		s.chaos(seed)
		s.pass(time.Duration(s.rng.IntN(8000)) * time.Millisecond)
		s.invariants(seed)
	}
	s.fake.ClearFaults()
	s.fake.Silence(false)
	s.apply()
	for range 40 {
		s.pass(30 * time.Second)
		s.invariants(seed)
	}
	s.atRest(seed)
	s.desired = map[string]*corev1.Pod{}
	s.apply()
	s.pass(5 * time.Minute)
	if st := s.fake.State(); len(st.Sandboxes)+len(st.Containers)+len(s.m.Pods())+s.cgroups.left() != 0 {
		t.Errorf("seed %d: left %d sandboxes, %d containers, %d pods, %d cgroups", seed, len(st.Sandboxes), len(st.Containers), len(s.m.Pods()), s.cgroups.left())
	}
	if uids, err := s.volumes.Pods(); err != nil || len(uids) != 0 {
		t.Errorf("seed %d: directories left: %v %v", seed, uids, err)
	}
}

func (s *sim) apply() {
	var pods []*corev1.Pod
	for i := range s.serial {
		if pod := s.desired[fmt.Sprintf("pod%d", i)]; pod != nil {
			pods = append(pods, pod)
		}
	}
	s.set(pods...)
}

func (s *sim) one(list ...string) string { return list[s.rng.IntN(len(list))] }

func (s *sim) randomPod(name string) *corev1.Pod {
	return newPod(name, func(p *corev1.Pod) {
		grace := int64(s.rng.IntN(20))
		p.Spec.TerminationGracePeriodSeconds = &grace
		p.Spec.RestartPolicy = corev1.RestartPolicy(s.one("Always", "Always", "OnFailure", "Never"))
		p.Annotations = map[string]string{
			podlifecycle.AnnotationStartPolicy:   s.one("", "", podlifecycle.StartAllOrNothing),
			podlifecycle.AnnotationFailurePolicy: s.one("", "", podlifecycle.FailureReplacePod),
		}
		for i := range s.rng.IntN(3) {
			c := container(fmt.Sprintf("init%d", i), "init:1")
			if s.rng.IntN(2) == 0 {
				c = sidecar(fmt.Sprintf("side%d", i), s.one("web:1", "flaky:1", "deaf:1"))
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		p.Spec.Containers = nil
		for i := range 1 + s.rng.IntN(2) {
			c := container(fmt.Sprintf("main%d", i), s.one("web:1", "web:1", "job:1", "flaky:1", "deaf:1", "crash:1", "broken:1"))
			if s.rng.IntN(3) == 0 {
				c.ReadinessProbe = execProbe("ready")
			}
			if s.rng.IntN(4) == 0 {
				c.LivenessProbe = execProbe("live")
			}
			if s.rng.IntN(4) == 0 {
				c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}},
					PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	})
}

func (s *sim) chaos(seed uint64) {
	st := s.fake.State()
	switch n := s.rng.IntN(100); {
	case n < 22 || len(s.desired) == 0:
		name := fmt.Sprintf("pod%d", s.serial)
		s.serial++
		s.desired[name] = s.randomPod(name)
		s.apply()
	case n < 32:
		delete(s.desired, fmt.Sprintf("pod%d", s.rng.IntN(s.serial)))
		s.apply()
	case n < 38: // changed in place
		if pod := s.desired[fmt.Sprintf("pod%d", s.rng.IntN(s.serial))]; pod != nil {
			pod = pod.DeepCopy()
			pod.Spec.Containers[0].Image = s.one("web:1", "web:2", "flaky:1")
			s.desired[pod.Name] = pod
			s.apply()
		}
	case n < 43: // replaced, by one of the same name and perhaps of the same UID
		name := fmt.Sprintf("pod%d", s.rng.IntN(s.serial))
		if s.desired[name] != nil {
			if s.rng.IntN(2) == 0 {
				delete(s.desired, name)
				s.apply()
				s.settle()
			}
			pod := s.randomPod(name)
			if s.rng.IntN(2) == 0 {
				pod.UID += "x"
			}
			s.desired[name] = pod
			if old, err := s.m.Pod("default", name); err == nil && old.UID == pod.UID && old.DeletionTimestamp == nil {
				delete(s.desired, name) // a source would have given it another UID
			}
			s.apply()
		}
	case n < 53 && len(st.Containers) > 0:
		_ = s.fake.Exit(st.Containers[s.rng.IntN(len(st.Containers))].ID, int32(s.rng.IntN(3)))
	case n < 57 && len(st.Sandboxes) > 0:
		_ = s.fake.KillShim(st.Sandboxes[s.rng.IntN(len(st.Sandboxes))].ID)
	case n < 59:
		s.fake.Reboot(s.rng.IntN(2) == 0)
	case n < 62:
		s.fake.LoseEvents()
	case n < 65:
		s.fake.Silence(s.rng.IntN(2) == 0)
	case n < 72:
		if s.rng.IntN(2) == 0 {
			s.stop()
		} else {
			s.kill()
		}
		s.pass(time.Duration(s.rng.IntN(20)) * time.Second)
		s.start()
		if s.rng.IntN(2) == 0 { // a source has not spoken yet
			s.m.Set(source.Set{Waiting: []string{"late"}})
			s.settle()
		}
		s.apply()
	case n < 75:
		s.prober.breaks(s.one("ready", "live"), s.rng.IntN(2) == 0)
	case n < 80:
		s.fake.ClearFaults()
	case n < 95:
		ops := []runtimetest.Op{"", runtimetest.OpRunSandbox, runtimetest.OpStopSandbox, runtimetest.OpRemoveSandbox, runtimetest.OpCreateContainer,
			runtimetest.OpRunContainers, runtimetest.OpStartContainer, runtimetest.OpStopContainer, runtimetest.OpRemoveContainer, runtimetest.OpListContainers,
			runtimetest.OpListSandboxes, runtimetest.OpPullImage, runtimetest.OpImageStatus, runtimetest.OpExec, runtimetest.OpSubscribe}
		s.fake.Inject(runtimetest.Fault{Op: ops[s.rng.IntN(len(ops))], Times: 1 + s.rng.IntN(4), Delay: time.Duration(s.rng.IntN(3000)) * time.Millisecond,
			Hang: s.rng.IntN(6) == 0, AfterEffect: s.rng.IntN(2) == 0, Err: []error{nil, errors.New("by chance"), runtimeiface.ErrUnavailable}[s.rng.IntN(3)]})
	}
}

// invariants hold at every moment, whatever happens.
func (s *sim) invariants(seed uint64) {
	s.t.Helper()
	st := s.fake.State()
	running, names := map[string]string{}, map[string]string{}
	mainStarted := map[string]time.Time{}
	for _, c := range st.Containers {
		if len(c.Name) > 4 && c.Name[:4] == "main" && !c.StartedAt.IsZero() && (mainStarted[c.SandboxID].IsZero() || c.StartedAt.Before(mainStarted[c.SandboxID])) {
			mainStarted[c.SandboxID] = c.StartedAt
		}
		if c.State != runtimeiface.ContainerRunning {
			continue
		}
		uid, name := c.Labels[podlifecycle.LabelPodUID], c.Labels[podlifecycle.LabelPodName]
		if other := running[uid+c.Name]; other != "" {
			s.t.Fatalf("seed %d: two instances of %s in %s: %s and %s\n%s", seed, c.Name, uid, other, c.ID, s.why(name))
		}
		running[uid+c.Name] = c.ID
		if other := names[name]; other != "" && other != uid {
			s.t.Fatalf("seed %d: pods %s and %s of the same name run at once", seed, other, uid)
		}
		names[name] = uid
	}
	for _, c := range st.Containers {
		if at := mainStarted[c.SandboxID]; len(c.Name) > 4 && c.Name[:4] == "init" && !at.IsZero() && c.StartedAt.After(at) {
			s.t.Fatalf("seed %d: %s started after a main container in its sandbox\n%s", seed, c.Name, s.why(c.Labels[podlifecycle.LabelPodName]))
		}
	}
	for _, pod := range s.m.Pods() {
		// A pod is the same while its start is.
		key := fmt.Sprint(pod.UID, startOf(pod).Truncate(time.Second))
		old := s.phases[key]
		if old != pod.Status.Phase && (old == corev1.PodSucceeded || old == corev1.PodFailed) {
			s.t.Fatalf("seed %d: %s was %s and is %s\n%s", seed, pod.Name, old, pod.Status.Phase, s.why(pod.Name))
		}
		s.phases[key] = pod.Status.Phase
	}
}

// atRest: left in peace, every pod runs, has ended, or crashes by its own fault.
func (s *sim) atRest(seed uint64) {
	s.t.Helper()
	for name, want := range s.desired {
		pod := s.pod(name)
		if pod.UID != want.UID || pod.DeletionTimestamp != nil {
			s.t.Fatalf("seed %d: %s is %s, want %s\n%s", seed, name, pod.UID, want.UID, s.why(name))
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		replaced := false
		for _, c := range want.Spec.Containers {
			replaced = replaced || want.Annotations[podlifecycle.AnnotationFailurePolicy] != "" && crashing(c.Image)
		}
		for _, c := range pod.Status.ContainerStatuses {
			crashes := replaced || crashing(c.Image) || s.prober.broken["live"]
			if c.State.Running == nil && c.State.Terminated == nil && !crashes {
				s.t.Fatalf("seed %d: %s does not come up\n%s", seed, name, s.why(name))
			}
		}
	}
	for _, sandbox := range s.fake.State().Sandboxes {
		if want := s.desired[sandbox.Name]; want == nil || string(want.UID) != sandbox.UID {
			s.t.Fatalf("seed %d: sandbox of %s left", seed, sandbox.Name)
		}
	}
}

// crashing tells of programs that end, and again when they are restarted.
func crashing(image string) bool {
	return image == "crash:1" || image == "job:1" || image == "broken:1"
}

func startOf(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime == nil {
		return time.Time{}
	}
	return pod.Status.StartTime.UTC()
}
