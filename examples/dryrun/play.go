package main

import (
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// maxSteps ends a play in which too much happens.
const maxSteps = 500

// world is a node on which everything succeeds at once, as Plan sees it.
type world struct {
	pod   *corev1.Pod
	exits map[string]int32
	begun time.Time
	now   time.Time
	told  string

	sandboxes  []runtimeiface.Sandbox
	containers []runtimeiface.Container
	images     map[string]podlifecycle.Image
	verdicts   map[string]podlifecycle.Verdicts
	hooks      map[string]podlifecycle.Hook
	kills      map[string]podlifecycle.Kill
	actuated   map[string]corev1.ResourceRequirements
	prepared   bool
	ending     *podlifecycle.Ending
	ended      podlifecycle.Ended
	status     corev1.PodStatus
	serial     int
	waits      map[string]string // by container and rule: what was said last
}

func newWorld(pod *corev1.Pod, exits map[string]int32) *world {
	begun := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // any time: what counts is how much passes
	return &world{
		pod: pod, exits: exits, begun: begun, now: begun, told: "on a node that has nothing of it",
		images: map[string]podlifecycle.Image{}, verdicts: map[string]podlifecycle.Verdicts{},
		hooks: map[string]podlifecycle.Hook{}, kills: map[string]podlifecycle.Kill{}, waits: map[string]string{},
		actuated: map[string]corev1.ResourceRequirements{},
	}
}

// play prints steps until nothing more happens in the time given.
func (w *world) play(out io.Writer, ahead time.Duration) {
	_, _ = fmt.Fprintf(out, "pod %s/%s, %s\n", w.pod.Namespace, w.pod.Name, w.told)
	said := ""
	for step := 0; ; step++ {
		d := podlifecycle.Plan(w.pod, w.observed(), w.now)
		w.status = d.Status
		if d.Ending != nil {
			w.ending = d.Ending
		}
		for _, r := range d.Records {
			if key, text := r.Container+" "+r.Rule, r.Reason+r.Input; w.waits[key] != text {
				w.waits[key] = text
				w.line(out, "wait", r.Container, r.Rule, r.Reason, r.Input)
			}
		}
		if s := summary(d.Status); s != said {
			said = s
			w.line(out, "status", "", "", s, "")
		}
		for _, a := range d.Actions {
			w.line(out, string(a.Type), a.Container, a.Rule, a.Reason, a.Input)
			w.do(a)
		}
		switch {
		case d.Done:
			w.line(out, "done", "", "", "nothing of the pod is left to do", "")
			return
		case step == maxSteps:
			w.line(out, "stop", "", "", fmt.Sprintf("%d steps are enough", maxSteps), "")
			return
		case len(d.Actions) > 0:
		case d.Next == nil:
			w.line(out, "end", "", "", "nothing will happen by itself", "")
			return
		case d.Next.At.Sub(w.begun) > ahead:
			w.line(out, "next", "", "", fmt.Sprintf("%s at %s: %s", d.Next.Action, w.since(d.Next.At), d.Next.Reason), "")
			return
		default:
			w.now = maxTime(d.Next.At, w.now.Add(time.Millisecond))
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *world) line(out io.Writer, what, container, rule, reason, input string) {
	text := strings.TrimSpace(what + " " + container)
	if rule != "" {
		reason += " (rule " + rule + ")"
	}
	if input != "" {
		reason += " <- " + input
	}
	reason = moment.ReplaceAllStringFunc(reason, func(text string) string {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return text
		}
		return w.since(at)
	})
	_, _ = fmt.Fprintf(out, "  %-8s %-22s %s\n", w.since(w.now), text, reason)
}

// moment is a time as Plan's texts have it.
var moment = regexp.MustCompile(`\b2000-01-01T[0-9:]+Z`)

func (w *world) since(at time.Time) string {
	return "+" + at.Sub(w.begun).Round(time.Millisecond).String()
}

func summary(s corev1.PodStatus) string {
	parts := []string{string(s.Phase)}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			parts = append(parts, "Ready="+string(c.Status))
		}
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, c := range list {
			state := "Running"
			switch {
			case c.State.Waiting != nil:
				state = c.State.Waiting.Reason
			case c.State.Terminated != nil:
				state = fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			}
			parts = append(parts, fmt.Sprintf("%s=%s/%d", c.Name, state, c.RestartCount))
		}
	}
	return strings.Join(parts, " ")
}

func (w *world) observed() podlifecycle.Observed {
	return podlifecycle.Observed{
		Sandboxes: slices.Clone(w.sandboxes), Containers: slices.Clone(w.containers), Images: w.images, Verdicts: w.verdicts,
		Hooks: w.hooks, Kills: w.kills, Prepared: w.prepared, Ending: w.ending, Ended: w.ended, Prior: w.status,
		Actuated: w.actuated,
		Node:     podlifecycle.NodeFacts{HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Scheme: "dryrun"},
	}
}

// do has an action succeed.
func (w *world) do(a podlifecycle.Action) {
	switch a.Type {
	case podlifecycle.ActionPrepare:
		w.prepared = true
	case podlifecycle.ActionRunSandbox:
		w.makeSandbox(a.Attempt)
	case podlifecycle.ActionStopSandbox:
		for i := range w.containers {
			if c := &w.containers[i]; c.SandboxID == a.ID && c.State != runtimeiface.ContainerExited {
				w.exit(c, 137)
			}
		}
		w.sandboxes[w.sandboxAt(a.ID)].State = runtimeiface.SandboxNotReady
	case podlifecycle.ActionRemoveSandbox:
		w.sandboxes = slices.Delete(w.sandboxes, w.sandboxAt(a.ID), w.sandboxAt(a.ID)+1)
		w.containers = slices.DeleteFunc(w.containers, func(c runtimeiface.Container) bool { return c.SandboxID == a.ID })
	case podlifecycle.ActionPull:
		w.images[a.Container] = podlifecycle.Image{Ref: a.Image, Attempt: a.Attempt, ID: "sha256:" + a.Image, At: w.now}
	case podlifecycle.ActionCreate:
		w.containers = append(w.containers, w.makeContainer(w.container(a.Container), a))
		w.start(&w.containers[len(w.containers)-1])
	case podlifecycle.ActionStart:
		w.start(w.instance(a.ID))
	case podlifecycle.ActionPostStart:
		w.hooks[a.ID] = podlifecycle.Hook{State: podlifecycle.HookDone}
	case podlifecycle.ActionKill:
		w.kills[a.ID] = podlifecycle.Kill{Rule: a.Rule, Message: a.Reason}
		w.exit(w.instance(a.ID), 143)
	case podlifecycle.ActionRemove:
		w.containers = slices.DeleteFunc(w.containers, func(c runtimeiface.Container) bool { return c.ID == a.ID })
	case podlifecycle.ActionResize:
		w.actuated[a.ID] = a.Size
	case podlifecycle.ActionPersist:
		w.ended.Persisted = true
	case podlifecycle.ActionTeardown:
		w.ended.Torn, w.prepared = true, false
	case podlifecycle.ActionRefresh, podlifecycle.ActionCancel:
	}
}

func (w *world) sandboxAt(id string) int {
	return slices.IndexFunc(w.sandboxes, func(s runtimeiface.Sandbox) bool { return s.ID == id })
}

func (w *world) instance(id string) *runtimeiface.Container {
	return &w.containers[slices.IndexFunc(w.containers, func(c runtimeiface.Container) bool { return c.ID == id })]
}

func (w *world) makeSandbox(attempt uint32) {
	w.serial++
	w.sandboxes = append(w.sandboxes, runtimeiface.Sandbox{
		ID: "sandbox-" + strconv.Itoa(w.serial), Name: w.pod.Name, Namespace: w.pod.Namespace, UID: string(w.pod.UID), Attempt: attempt,
		State: runtimeiface.SandboxReady, CreatedAt: w.now, IPs: []netip.Addr{netip.MustParseAddr("10.88.0.2")},
	})
}

func (w *world) makeContainer(spec *corev1.Container, a podlifecycle.Action) runtimeiface.Container {
	w.serial++
	return runtimeiface.Container{
		ID: spec.Name + "-" + strconv.Itoa(w.serial), SandboxID: a.ID, Name: spec.Name, Attempt: a.Attempt,
		State: runtimeiface.ContainerCreated, Image: spec.Image, ImageID: "sha256:" + spec.Image, CreatedAt: w.now,
		Annotations: map[string]string{
			podlifecycle.AnnotationHash: podlifecycle.ContainerHash(spec), podlifecycle.AnnotationImage: spec.Image,
			podlifecycle.AnnotationLevel: strconv.Itoa(a.Level),
		},
	}
}

// start runs the program: one of an init container ends well, others run on and
// pass their probes, unless it was said how they end.
func (w *world) start(c *runtimeiface.Container) {
	c.State, c.StartedAt = runtimeiface.ContainerRunning, w.now
	spec := w.container(c.Name)
	w.verdicts[c.ID] = verdictsOf(spec)
	once := slices.ContainsFunc(w.pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name && i.RestartPolicy == nil })
	if code, ok := w.exits[c.Name]; ok || once {
		w.exit(c, code)
	}
}

func (w *world) exit(c *runtimeiface.Container, code int32) {
	c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeiface.ContainerExited, code, exitReason(code), w.now
}

func verdictsOf(c *corev1.Container) podlifecycle.Verdicts {
	var v podlifecycle.Verdicts
	for _, p := range []struct {
		is *corev1.Probe
		to *probe.Result
	}{{c.StartupProbe, &v.Startup}, {c.LivenessProbe, &v.Liveness}, {c.ReadinessProbe, &v.Readiness}} {
		if p.is != nil {
			*p.to = probe.Success
		}
	}
	return v
}
