package podlifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func TestManagerRunsAPod(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		pod := r.phase("web", corev1.PodRunning)
		r.ready("web", true)
		r.wantRunning("app/0")
		if pod.Status.PodIP == "" || pod.Status.HostIP != "192.0.2.1" || pod.Status.StartTime == nil {
			t.Errorf("addresses and start time: %+v", pod.Status)
		}
		if s := status(pod, "app"); s.ContainerID != "fake://"+r.container("app").ID || s.ImageID == "" || s.RestartCount != 0 {
			t.Errorf("container status: %+v", s)
		}
		if !r.volumes.called("setup web") || r.cgroups.left() != 1 {
			t.Errorf("volumes %v, cgroups %v", r.volumes.calls, r.cgroups.paths)
		}
		path, err := r.m.LogPath("default", "web", "app", false)
		if err != nil || !strings.HasSuffix(path, "/logs/default_web_uid-web/app/0.log") {
			t.Errorf("log path %q, %v", path, err)
		}
		if _, err := r.m.LogPath("default", "web", "app", true); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("log of the instance before: %v", err)
		}
		if targets := r.m.Targets(); len(targets) != 1 || targets[0].Container != "app" || targets[0].UID != "uid-web" {
			t.Errorf("targets %+v", targets)
		}

		r.set()
		r.pass(time.Second)
		if pods := r.m.Pods(); len(pods) != 0 {
			t.Fatalf("still there: %v", pods)
		}
		if st := r.fake.State(); len(st.Sandboxes)+len(st.Containers) != 0 || r.cgroups.left() != 0 {
			t.Errorf("left behind: %+v %v", st, r.cgroups.paths)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("log left behind: %s", path)
		}
	})
}

// The exact back-off: at once, then 10, 20, 40, 80, 160, 300, 300 s, and from
// the start again after 600 s of running.
func TestRestartBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		for attempt, delay := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
			delay *= time.Second
			got := r.container("app")
			if int(got.Attempt) != attempt || got.State != runtimeiface.ContainerRunning {
				t.Fatalf("attempt %d is %s, want %d running\n%s", got.Attempt, got.State, attempt, r.why("web"))
			}
			r.pass(time.Second)
			if err := r.fake.Exit(got.ID, 1); err != nil {
				t.Fatal(err)
			}
			r.settle()
			if delay > 0 {
				s := status(r.pod("web"), "app")
				if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.LastTerminationState.Terminated.ExitCode != 1 {
					t.Fatalf("status in back-off: %+v", s)
				}
				r.phase("web", corev1.PodRunning)
				r.pass(delay - time.Millisecond)
				r.wantRunning()
				r.pass(time.Millisecond)
			}
		}
		r.wantRunning("app/8")
		r.pass(600 * time.Second)
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/9")
		if s := status(r.pod("web"), "app"); s.RestartCount != 9 || s.LastTerminationState.Terminated.Reason != "Completed" {
			t.Errorf("status %+v", s)
		}
		if n := len(r.fake.State().Containers); n != 2 {
			t.Errorf("%d instances kept, want the running one and the last dead one", n)
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy corev1.RestartPolicy
		code   int32
		phase  corev1.PodPhase
		runs   []string
	}{
		{corev1.RestartPolicyAlways, 0, corev1.PodRunning, []string{"app/1"}},
		{corev1.RestartPolicyOnFailure, 1, corev1.PodRunning, []string{"app/1"}},
		{corev1.RestartPolicyOnFailure, 0, corev1.PodSucceeded, nil},
		{corev1.RestartPolicyNever, 0, corev1.PodSucceeded, nil},
		{corev1.RestartPolicyNever, 3, corev1.PodFailed, nil},
	} {
		t.Run(fmt.Sprintf("%s exit %d", c.policy, c.code), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t).start()
				r.set(newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = c.policy }))
				r.settle()
				if err := r.fake.Exit(r.container("app").ID, c.code); err != nil {
					t.Fatal(err)
				}
				r.settle()
				pod := r.phase("job", c.phase)
				r.wantRunning(c.runs...)
				if c.runs == nil {
					if s := status(pod, "app"); s.State.Terminated == nil || s.State.Terminated.ExitCode != c.code {
						t.Errorf("status %+v", s)
					}
					if !r.volumes.called("teardown uid-job") || r.cgroups.left() != 0 {
						t.Errorf("an ended pod keeps volumes or cgroup: %v %v", r.volumes.calls, r.cgroups.paths)
					}
				}
			})
		})
	}
}

func withInit(p *corev1.Pod) {
	p.Spec.InitContainers = []corev1.Container{container("first", "job:1"), sidecar("proxy", "web:1"), container("second", "job:1")}
	p.Spec.Containers = append(p.Spec.Containers, container("other", "web:1"))
}

var jobImage = runtimetest.FakeImage{Ref: "job:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{After: 5 * time.Second}}}

// Init containers one after another, a sidecar among them, then the others.
func TestStartAndEndOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, jobImage, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: time.Second}}).start()
		r.set(newPod("web", withInit))
		r.settle()
		r.wantRunning("first/0")
		pod := r.phase("web", corev1.PodPending)
		if s := status(pod, "app"); s.State.Waiting == nil || s.State.Waiting.Reason != "PodInitializing" {
			t.Errorf("main while init runs: %+v", s)
		}
		r.pass(5 * time.Second)
		r.wantRunning("proxy/0", "second/0")
		r.pass(5 * time.Second)
		r.wantRunning("app/0", "other/0", "proxy/0")
		r.ready("web", true)

		r.set()
		r.pass(500 * time.Millisecond)
		stops := r.fake.Calls(runtimetest.OpStopContainer)
		if len(stops) != 2 {
			t.Errorf("regular containers are stopped together, and the sidecar after them: %+v", stops)
		}
		r.pass(600 * time.Millisecond)
		r.wantRunning("proxy/0")
		r.pass(time.Second)
		r.wantRunning()
		if pods := r.m.Pods(); len(pods) != 0 {
			t.Errorf("still there: %v", pods)
		}
	})
}

func TestSidecarsEndInReverse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: time.Second}}).start()
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{sidecar("one", "web:1"), sidecar("two", "web:1"), sidecar("three", "web:1")}
		}))
		r.settle()
		r.set()
		for _, want := range []string{"app three two one", "three two one", "two one", "one", ""} {
			var alive []string
			for _, name := range []string{"app", "three", "two", "one"} {
				if slices.Contains(r.running(), name+"/0") {
					alive = append(alive, name)
				}
			}
			if got := strings.Join(alive, " "); got != want {
				t.Fatalf("alive %q, want %q", got, want)
			}
			r.pass(time.Second)
		}
	})
}

// Sidecars end when the work is done, and their own ends do not count.
func TestSidecarDoesNotKeepAJobAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, jobImage, runtimetest.FakeImage{Ref: "web:1", Present: true}).start()
		r.set(newPod("job", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{sidecar("proxy", "web:1")}
			p.Spec.Containers = []corev1.Container{container("app", "job:1")}
		}))
		r.settle()
		r.wantRunning("app/0", "proxy/0")
		if err := r.fake.Exit(r.container("proxy").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/0", "proxy/1")
		r.pass(6 * time.Second)
		r.wantRunning()
		r.phase("job", corev1.PodSucceeded)
	})
}

func TestInitFailure(t *testing.T) {
	failing := runtimetest.FakeImage{Ref: "bad:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{Code: 2}}}
	for policy, want := range map[corev1.RestartPolicy]corev1.PodPhase{
		corev1.RestartPolicyNever: corev1.PodFailed, corev1.RestartPolicyAlways: corev1.PodPending,
	} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, failing, runtimetest.FakeImage{Ref: "web:1", Present: true}).start()
			r.set(newPod("web", func(p *corev1.Pod) {
				p.Spec.RestartPolicy = policy
				p.Spec.InitContainers = []corev1.Container{container("first", "bad:1")}
			}))
			r.pass(time.Second)
			pod := r.phase("web", want)
			s := status(pod, "first")
			if want == corev1.PodPending && (s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.RestartCount != 1) {
				t.Errorf("init container %+v", s)
			}
			if want == corev1.PodFailed && (s.State.Terminated == nil || s.State.Terminated.ExitCode != 2) {
				t.Errorf("init container %+v", s)
			}
			if len(r.running()) != 0 {
				t.Errorf("running %v", r.running())
			}
		})
	}
}

func TestHooks(t *testing.T) {
	web := runtimetest.FakeImage{Ref: "web:1", Present: true}
	var hooks []string
	web.Program.Exec = func(_ context.Context, p runtimetest.Process, _ []byte) runtimetest.ExecResult {
		hooks = append(hooks, p.Argv[0])
		if p.Argv[0] == "fail" {
			return runtimetest.ExecResult{Code: 1, Stderr: "no luck"}
		}
		return runtimetest.ExecResult{Takes: 3 * time.Second}
	}
	hook := func(word string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{word}}}
	}
	t.Run("postStart holds back started and the containers behind", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, web).start()
			r.set(newPod("web", func(p *corev1.Pod) {
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("start"), PreStop: hook("stop")}
				p.Spec.Containers = append(p.Spec.Containers, container("other", "web:1"))
			}))
			r.pass(time.Second)
			r.wantRunning("app/0")
			r.ready("web", false)
			r.pass(2 * time.Second)
			r.wantRunning("app/0", "other/0")
			r.ready("web", true)
			r.set()
			r.pass(time.Second)
			r.wantRunning("app/0") // its preStop hook runs
			r.pass(2 * time.Second)
			r.wantRunning()
			if !slices.Equal(hooks, []string{"start", "stop"}) {
				t.Errorf("hooks %v", hooks)
			}
		})
	})
	t.Run("a preStop hook ends with the grace", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, web).start()
			grace := int64(2)
			r.set(newPod("web", func(p *corev1.Pod) {
				p.Spec.TerminationGracePeriodSeconds = &grace
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: hook("stop")}
			}))
			r.settle()
			r.set()
			r.pass(1900 * time.Millisecond)
			r.wantRunning("app/0")
			r.pass(200 * time.Millisecond)
			r.wantRunning()
		})
	})
	t.Run("a failed postStart kills", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, web).start()
			r.set(newPod("web", func(p *corev1.Pod) {
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("fail")}
			}))
			r.settle()
			s := status(r.pod("web"), "app")
			if s.State.Waiting == nil || s.State.Waiting.Reason != "PostStartHookError" || !strings.Contains(s.State.Waiting.Message, "no luck") || s.RestartCount != 1 {
				t.Errorf("status %+v", s)
			}
			r.pass(2 * time.Second)
			if s := status(r.pod("web"), "app"); s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" {
				t.Errorf("status %+v", s)
			}
		})
	})
}

// A slow pull of one pod neither holds up another nor its own end.
func TestSlowPullBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "huge:1", PullTakes: time.Hour}, runtimetest.FakeImage{Ref: "web:1", Present: true})
		r.tune = func(c *podlifecycle.Config) { c.MaxParallelPulls = 1 }
		r.start()
		huge := newPod("huge", func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{container("slow", "huge:1"), container("quick", "web:1")}
		})
		r.set(huge, newPod("web"))
		r.settle()
		r.ready("web", true)
		r.wantRunning("app/0", "quick/0")
		if s := status(r.pod("huge"), "slow"); s.State.Waiting == nil || s.State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("status %+v", s)
		}
		if err := r.fake.Exit(r.container("quick").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/0", "quick/1")
		r.set(newPod("web"))
		r.pass(time.Millisecond)
		if _, err := r.m.Pod("default", "huge"); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("the pod whose pull lasts is not gone: %v", err)
		}
	})
}

// A kill that lasts does not keep another container of the pod from restarting.
func TestSlowKillBlocksNoSibling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true},
			runtimetest.FakeImage{Ref: "deaf:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}).start()
		pod := newPod("web", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, container("deaf", "deaf:1")) })
		r.set(pod)
		r.settle()
		edited := pod.DeepCopy()
		edited.Spec.Containers[1].Image = "web:1"
		r.set(edited)
		r.pass(time.Second)
		if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/1", "deaf/0")
		r.pass(30 * time.Second)
		r.wantRunning("app/1", "deaf/1")
	})
}

func TestImageChangeRestartsThatContainerOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		pod := newPod("web", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers = append(p.Spec.Containers, container("other", "web:1"))
		})
		r.set(pod)
		r.settle()
		other := r.container("other").ID
		edited := pod.DeepCopy()
		edited.Spec.Containers[0].Image = "web:2"
		edited.Labels = map[string]string{"version": "2"}
		r.set(edited)
		r.settle()
		r.wantRunning("app/1", "other/0")
		if r.container("other").ID != other {
			t.Error("the other container was restarted")
		}
		got := r.phase("web", corev1.PodRunning)
		if s := status(got, "app"); s.Image != "web:2" || s.RestartCount != 1 || got.Labels["version"] != "2" {
			t.Errorf("status %+v, labels %v", s, got.Labels)
		}
		if !r.volumes.called("update web") {
			t.Error("volumes were not refreshed after the labels changed")
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		limit := int64(60)
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &limit }))
		r.pass(59 * time.Second)
		r.ready("web", true)
		if e, _ := r.m.Why("default", "web"); e.Next == nil || e.Next.Action != "end the pod" {
			t.Errorf("next %+v", e.Next)
		}
		r.pass(2 * time.Second)
		pod := r.phase("web", corev1.PodFailed)
		if pod.Status.Reason != "DeadlineExceeded" || len(r.running()) != 0 {
			t.Errorf("status %+v, running %v", pod.Status, r.running())
		}
	})
}

func TestTerminationMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		words := strings.Repeat("x", 100) + "\nlast words\n"
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true}, runtimetest.FakeImage{Ref: "talks:1", Present: true,
			Program: runtimetest.Program{Output: []runtimetest.Output{{Data: []byte(words), Stderr: true}}, Exit: &runtimetest.Exit{After: time.Second, Code: 1}}}).start()
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			log := container("log", "talks:1")
			log.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
			p.Spec.Containers = append(p.Spec.Containers, log)
		}))
		r.settle()
		_, spec, err := r.fake.Specs(r.container("app").ID)
		if err != nil {
			t.Fatal(err)
		}
		path := ""
		for _, m := range spec.Mounts {
			if m.Destination == "/dev/termination-log" {
				path = m.Source
			}
		}
		if err := os.WriteFile(path, []byte(strings.Repeat("y", 5000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.pass(2 * time.Second)
		pod := r.phase("web", corev1.PodFailed)
		if got := status(pod, "app").State.Terminated.Message; got != strings.Repeat("y", 4096) {
			t.Errorf("message of %d bytes", len(got))
		}
		if got := status(pod, "log").State.Terminated.Message; got != words {
			t.Errorf("message %q", got)
		}
	})
}

func TestStopAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: 2 * time.Second}}).start()
		r.set(newPod("a"), newPod("b"))
		r.settle()
		began := time.Now()
		if err := r.m.StopAll(context.Background()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		r.set(newPod("a"))
		r.settle()
		if st := r.fake.State(); len(st.Sandboxes) != 0 || len(r.m.Pods()) != 0 || r.cgroups.left() != 0 {
			t.Errorf("left %+v", st)
		}
	})
}

// Of a pod that ends nothing begins, not even what was being made when that was
// decided.
func TestNothingBeginsOfAPodThatEnds(t *testing.T) {
	for name, late := range map[string]runtimetest.Fault{
		"a call that takes long":                  {Delay: 10 * time.Second},
		"a call that takes long, and is not told": {Delay: 10 * time.Second, AfterEffect: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, runtimetest.FakeImage{Ref: "deaf:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}},
					runtimetest.FakeImage{Ref: "web:1", Present: true}).start()
				late.Op, late.Match = runtimetest.OpCreateContainer, func(c runtimetest.Call) bool { return c.Container == "slow" }
				r.fake.Inject(late)
				r.set(newPod("web", func(p *corev1.Pod) {
					p.Spec.Containers = []corev1.Container{container("deaf", "deaf:1"), container("slow", "web:1")}
				}))
				r.pass(time.Second)
				r.wantRunning("deaf/0")
				r.set()
				r.pass(20 * time.Second) // of its grace of 30
				r.wantRunning("deaf/0")
				for _, call := range r.fake.Calls(runtimetest.OpStartContainer) {
					if call.Container == "slow" {
						t.Error("it began")
					}
				}
				r.pass(20 * time.Second)
				if st := r.fake.State(); len(st.Sandboxes)+len(st.Containers) != 0 {
					t.Errorf("left behind: %+v", st)
				}
			})
		})
	}
}

// Whoever follows OnStatus learns of each pod that an agent before has started,
// though nothing of it has changed.
func TestStatusIsToldAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		r.ready("web", true)
		r.kill()
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
		r.start()
		r.set(newPod("web"))
		r.settle()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.statuses) != 1 || r.statuses[0].Name != "web" || condition(r.statuses[0], corev1.PodReady).Status != corev1.ConditionTrue {
			t.Errorf("told: %+v", r.statuses)
		}
	})
}
