package podlifecycle

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Plan decides what to do next about a pod, what to report of it, and when to
// look again. It is pure: equal arguments give equal decisions, nothing is
// read or written elsewhere, and its arguments are not changed. An agent
// without containers can drive anything that has instances with it.
//
// The rules are those of the kubelet, Kubernetes v1.37.0 pkg/kubelet
// (kuberuntime/kuberuntime_manager.go computePodActions, kubelet_pods.go
// getPhase, status/generate.go).
func Plan(pod *corev1.Pod, observed Observed, now time.Time) Decision {
	p := newPlanner(pod, &observed, now)
	p.decide()
	p.d.Status = p.status()
	p.explainReadiness()
	return p.d
}

// kind of a container.
type kind int

const (
	initKind kind = iota
	sidecarKind
	mainKind
	ephemeralKind
)

// view is one container of the spec with what is there of it.
type view struct {
	c    *corev1.Container
	kind kind
	// cur is the instance that counts: one that runs, else the newest, in the
	// current sandbox.
	cur *runtimeiface.Container
	// past is the newest other instance that has run, of any sandbox.
	past *runtimeiface.Container
	// waiting is why it does not run, if the rules say so.
	waiting *corev1.ContainerStateWaiting
}

type planner struct {
	pod  *corev1.Pod
	o    *Observed
	now  time.Time
	d    Decision
	busy map[string]bool // lanes that got an action in this decision

	sandboxes []runtimeiface.Sandbox // newest first
	sandbox   *runtimeiface.Sandbox  // the one to use, or nil
	instances map[string][]runtimeiface.Container
	views     []*view
	ending    *Ending

	changes     []change // of running containers, by resize
	resizeError string   // why they are not made
	restarting  bool     // all containers end, to start again
}

func newPlanner(pod *corev1.Pod, o *Observed, now time.Time) *planner {
	pod = o.Allocated.Granted(pod)
	p := &planner{pod: pod, o: o, now: now, busy: map[string]bool{}, ending: o.Ending}
	p.sandboxes = slices.Clone(o.Sandboxes)
	slices.SortStableFunc(p.sandboxes, func(a, b runtimeiface.Sandbox) int {
		return int(b.Attempt) - int(a.Attempt)
	})
	p.sandbox = p.usableSandbox()
	p.instances = make(map[string][]runtimeiface.Container, len(o.Containers))
	for _, c := range o.Containers {
		p.instances[c.Name] = append(p.instances[c.Name], c)
	}
	for _, list := range p.instances {
		slices.SortStableFunc(list, func(a, b runtimeiface.Container) int {
			return int(b.Attempt) - int(a.Attempt)
		})
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		k := initKind
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			k = sidecarKind
		}
		p.views = append(p.views, p.look(c, k))
	}
	for i := range pod.Spec.Containers {
		p.views = append(p.views, p.look(&pod.Spec.Containers[i], mainKind))
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		p.views = append(p.views, p.look(&c, ephemeralKind))
	}
	p.restarting = p.ending == nil && p.markedRestarting() // until it is looked at
	return p
}

// look finds the instance of c that counts. One that runs is found first,
// whatever its attempt: a stale number must never make a second.
func (p *planner) look(c *corev1.Container, k kind) *view {
	v := &view{c: c, kind: k}
	list := p.instances[c.Name]
	if p.sandbox != nil {
		for i := range list {
			got := &list[i]
			if got.SandboxID != p.sandbox.ID {
				continue
			}
			if v.cur == nil || !alive(v.cur) && alive(got) {
				v.cur = got
			}
		}
	}
	for i := range list {
		got := &list[i]
		if got == v.cur || got.State != runtimeiface.ContainerExited {
			continue
		}
		if v.cur == nil || got.Attempt < v.cur.Attempt {
			v.past = got
			break
		}
	}
	return v
}

// alive tells whether an instance runs or may run.
func alive(c *runtimeiface.Container) bool {
	return c.State == runtimeiface.ContainerRunning || c.State == runtimeiface.ContainerUnknown
}

func (p *planner) decide() {
	switch {
	case p.o.Ending != nil:
		p.end()
	case terminal(p.o.Prior.Phase):
		// Found again after a restart: whatever of it is still there goes.
		p.begin(Ending{Reason: EndingCompleted, Message: "the pod had ended before", Since: p.now})
	case p.o.Rejected != nil:
		action := "reject"
		if p.o.Rejected.Pending {
			action = "wait"
		}
		p.note("", RuleAdmission, p.o.Rejected.Field, action, p.o.Rejected.Reason+": "+p.o.Rejected.Message)
	case p.o.Blocked != "":
		p.note("", RuleBlocked, "", "wait", p.o.Blocked)
	default:
		if e := p.whyEnd(); e != nil {
			p.begin(*e)
			return
		}
		p.sync()
	}
}

func (p *planner) begin(e Ending) {
	p.ending, p.d.Ending, p.restarting = &e, &e, false
	p.end()
}

// whyEnd finds the reasons to end that lie in the pod itself.
func (p *planner) whyEnd() *Ending {
	grace := p.podGrace()
	if limit := p.pod.Spec.ActiveDeadlineSeconds; limit != nil && p.o.Prior.StartTime != nil {
		at := p.o.Prior.StartTime.Add(time.Duration(*limit) * time.Second)
		if !p.now.Before(at) {
			return &Ending{Reason: EndingDeadline, Since: p.now, Grace: grace, Failed: true,
				Message: "Pod was active on the node longer than the specified deadline"}
		}
		p.wake(at, "end the pod", fmt.Sprintf("activeDeadlineSeconds is %d", *limit))
	}
	if why := p.completed(); why != "" && !p.restartsAll() {
		return &Ending{Reason: EndingCompleted, Message: why, Since: p.now, Grace: grace}
	}
	if p.sandbox == nil && p.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		for _, v := range p.views {
			if (v.kind == initKind || v.kind == mainKind) && len(p.instances[v.c.Name]) > 0 {
				return &Ending{Reason: EndingSandbox, Since: p.now, Grace: grace, Failed: true,
					Message: "the pod's sandbox is gone and restartPolicy Never allows no other"}
			}
		}
	}
	return nil
}

// sync brings the pod one step nearer to all its containers running.
func (p *planner) sync() {
	if !p.prepared() || p.replacing() || !p.sandboxReady() {
		p.restarting = p.restarting && !p.o.Prepared // a new sandbox starts all anyway
		p.fetch()
		p.cancelStale()
		return
	}
	if p.o.Stale && !p.hold("", RuleRefresh) {
		p.act(Action{Type: ActionRefresh, Rule: RuleRefresh, Reason: "an object or label that a volume shows has changed"})
	}
	p.killDuplicates()
	p.ephemerals()
	if p.restartAll() {
		return
	}
	if growing := p.resize(); !growing && p.initialized() {
		p.mains()
	}
	p.garbage()
}

// prepared asks for volumes, directories and cgroup.
func (p *planner) prepared() bool {
	if p.o.Prepared {
		return true
	}
	if p.hold("", RulePrepare) {
		return false
	}
	p.act(Action{Type: ActionPrepare, Rule: RulePrepare, Reason: "volumes, directories and cgroup come first"})
	return false
}

// hold tells whether a lane is busy, or must wait before it tries again.
func (p *planner) hold(lane, rule string) bool {
	if _, busy := p.o.Flights[lane]; busy || p.busy[lane] {
		return true
	}
	f, failed := p.o.Faults[lane]
	if f.Reason == reasonResize && rule != RuleResize || f.Reason == reasonRefresh && rule != RuleRefresh {
		failed = false // the rest of life goes on
	}
	if p.ending != nil && f.At.Before(p.ending.Since) {
		return false // what went wrong before does not hold up the end
	}
	if failed && f.RetryAt.After(p.now) {
		p.note(lane, RuleFault, f.Message, "wait", "try again after "+f.Reason)
		p.wake(f.RetryAt, "try again", f.Reason)
		return true
	}
	return false
}

// cancelStale ends what is under way for a sandbox that is no more.
func (p *planner) cancelStale() {
	if p.sandbox != nil || !p.o.Prepared {
		return
	}
	if f := p.o.Flights[""]; f.Type == ActionStartAll {
		p.cancel("", RuleSandbox, "its sandbox is gone")
	}
	for _, v := range p.views {
		switch f := p.o.Flights[v.c.Name]; f.Type {
		case ActionCreate, ActionStart, ActionPostStart:
			p.cancel(v.c.Name, RuleSandbox, "its sandbox is gone")
		}
	}
}

func (p *planner) act(a Action) {
	p.busy[a.Container] = true
	p.d.Actions = append(p.d.Actions, a)
}

func (p *planner) cancel(lane, rule, reason string) {
	if f, busy := p.o.Flights[lane]; busy && !f.Cancelled && !p.busy[lane] {
		p.act(Action{Type: ActionCancel, Container: lane, Rule: rule, Reason: reason, Input: string(f.Type) + " under way"})
	}
}

func (p *planner) note(container, rule, input, action, reason string) {
	p.d.Records = append(p.d.Records, Record{Container: container, Rule: rule, Input: input, Action: action, Reason: reason})
}

// wake asks to plan again at t, unless something is planned before.
func (p *planner) wake(t time.Time, action, reason string) {
	if p.d.Next == nil || t.Before(p.d.Next.At) {
		p.d.Next = &Next{At: t, Action: action, Reason: reason}
	}
}

func (p *planner) podGrace() time.Duration { return GracePeriod(p.pod) }

// GracePeriod gives the pod's terminationGracePeriodSeconds, 30 s by default.
func GracePeriod(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return max(0, time.Duration(*s)*time.Second)
	}
	return 30 * time.Second
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}
