package podlifecycle_test

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func (s *sim) one(list ...string) string { return list[s.rng.IntN(len(list))] }

func (s *sim) some() string { return fmt.Sprintf("pod%d", s.rng.IntN(s.serial)) }

// chaos does one thing that nobody asked for, or that somebody does ask for.
func (s *sim) chaos() {
	st := s.fake.State()
	n := s.rng.IntN(105)
	s.note(fmt.Sprint("chaos ", n))
	switch {
	case n < 20 || len(s.desired) == 0:
		name := fmt.Sprintf("pod%d", s.serial)
		s.serial++
		s.desired[name] = s.randomPod(name)
		s.apply()
	case n < 30:
		delete(s.desired, s.some())
		s.apply()
	case n < 36: // changed in place
		if pod := s.desired[s.some()]; pod != nil {
			pod = pod.DeepCopy()
			for i := range pod.Spec.Containers {
				if c := &pod.Spec.Containers[i]; c.Resources.Limits != nil {
					c.Resources = s.size()
				}
			}
			if s.rng.IntN(2) == 0 {
				pod.Spec.Containers[0].Image = s.image(pod.Name, "main0", s.one("web:1", "web:2", "flaky:1"))
			}
			s.desired[pod.Name] = pod
			s.apply()
		}
	case n < 41:
		s.replace(s.some())
	case n < 50 && len(st.Containers) > 0:
		_ = s.fake.Exit(st.Containers[s.rng.IntN(len(st.Containers))].ID, int32(s.rng.IntN(4)))
	case n < 54 && len(st.Sandboxes) > 0:
		_ = s.fake.KillShim(st.Sandboxes[s.rng.IntN(len(st.Sandboxes))].ID)
	case n < 56:
		s.fake.Reboot(s.rng.IntN(2) == 0)
	case n < 58:
		s.fake.LoseEvents()
	case n < 60:
		s.fake.Silence(s.rng.IntN(2) == 0)
	case n < 63:
		s.setClock()
	case n < 71:
		s.restart()
	case n < 75:
		s.prober.breaks(s.one("ready", "live", "up"), s.rng.IntN(2) == 0)
	case n < 80:
		s.heal()
	case n < 96:
		ops := []runtimetest.Op{"", runtimetest.OpRunSandbox, runtimetest.OpStopSandbox, runtimetest.OpRemoveSandbox, runtimetest.OpCreateContainer,
			runtimetest.OpRunContainers, runtimetest.OpStartContainer, runtimetest.OpStopContainer, runtimetest.OpRemoveContainer, runtimetest.OpListContainers,
			runtimetest.OpListSandboxes, runtimetest.OpPullImage, runtimetest.OpImageStatus, runtimetest.OpExec, runtimetest.OpSubscribe,
			runtimetest.OpContainerStatus, runtimetest.OpVersion, runtimetest.OpUpdateContainer, runtimetest.OpImageFilesystem, runtimetest.OpRemoveImage}
		hang := s.rng.IntN(6) == 0
		s.fake.Inject(runtimetest.Fault{Op: ops[s.rng.IntN(len(ops))], Times: 1 + s.rng.IntN(4), Hang: hang, AfterEffect: s.rng.IntN(2) == 0,
			Err: []error{nil, errors.New("by chance"), runtimeiface.ErrUnavailable}[s.rng.IntN(3)],
			// A hook that hangs may, for ever.
			Match: func(c runtimetest.Call) bool { return !hang || c.Op != runtimetest.OpExec }})
	case n < 98:
		if s.shuts.going() == nil {
			s.goDown()
		}
	case n < 101:
		s.staysUp(true)
	default:
		s.pressure()
	}
}

// heal ends all faults but the turns.
func (s *sim) heal() {
	s.fake.ClearFaults()
	s.runtime.gate()
}

func (s *sim) setClock() {
	seconds := int64(s.rng.IntN(6*3600)) - 3*3600
	if seconds < 0 {
		s.setBack()
	}
	s.clock.ahead.Add(seconds)
	s.fake.ClockStepped(time.Duration(seconds) * time.Second)
}

// replace puts another pod in the place of one, of the same name and perhaps
// of the same UID.
func (s *sim) replace(name string) {
	if s.desired[name] == nil {
		return
	}
	if s.rng.IntN(2) == 0 {
		delete(s.desired, name)
		s.apply()
		s.turns.pass(0)
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

// restart ends the agent, in order or not, and begins it anew.
func (s *sim) restart() {
	if s.rng.IntN(2) == 0 {
		s.note("the agent stops")
		s.halt()
	} else {
		delete(s.desired, s.some())
		s.apply()
		s.crash()
	}
	s.turns.pass(time.Duration(s.rng.IntN(20)) * time.Second)
	if s.rng.IntN(8) == 0 {
		s.setClock()
	}
	s.start()
	if s.rng.IntN(2) == 0 { // a source has not spoken yet
		var some []*corev1.Pod
		for i := range s.serial {
			if pod := s.desired[fmt.Sprintf("pod%d", i)]; pod != nil && s.rng.IntN(2) == 0 {
				some = append(some, pod)
			}
		}
		s.m.Set(source.Set{Pods: some, Waiting: []string{"late"}})
		s.turns.pass(time.Duration(s.rng.IntN(5000)) * time.Millisecond)
	}
	s.apply()
}

func (s *sim) calmDown() {
	s.note("calm")
	s.calm = true
	s.heal()
	s.node.relieve()
	s.staysUp(true)
	s.fake.Silence(false)
	for _, probe := range []string{"ready", "live", "up"} {
		s.prober.breaks(probe, false)
	}
	s.apply()
}
