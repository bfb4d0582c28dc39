package podlifecycle

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// mainStarted tells whether a regular container has been started in the
// current sandbox. From then on init containers are history.
func (p *planner) mainStarted() bool {
	if f := p.o.Flights[""]; f.Type == ActionStartAll && p.sandbox != nil && f.ID == p.sandbox.ID {
		return true
	}
	for _, v := range p.views {
		if v.kind != mainKind {
			continue
		}
		for _, c := range p.instances[v.c.Name] {
			if p.sandbox != nil && c.SandboxID == p.sandbox.ID && c.State != runtimeiface.ContainerCreated {
				return true
			}
		}
		// One that is being started counts too: whoever prunes an init
		// container at this moment must not have it run beside.
		switch f := p.o.Flights[v.c.Name]; f.Type {
		case ActionCreate:
			if p.sandbox != nil && f.ID == p.sandbox.ID {
				return true
			}
		case ActionStart:
			if v.cur != nil && f.ID == v.cur.ID {
				return true
			}
		}
	}
	return false
}

// initialized walks the init containers and sidecars in order, and tells
// whether the regular containers may run.
func (p *planner) initialized() bool {
	past := p.mainStarted()
	for _, v := range p.views {
		switch {
		case v.kind == sidecarKind:
			p.maintain(v)
			if !past && !p.started(v) {
				p.note(v.c.Name, RuleInitOrder, p.standing(v), "wait", "the containers after this sidecar wait until it has started")
				return false
			}
		case v.kind == initKind && !past:
			if v.cur != nil && v.cur.State == runtimeiface.ContainerExited && v.cur.ExitCode == 0 &&
				!p.remade(v.cur) {
				continue
			}
			p.maintain(v)
			p.note(v.c.Name, RuleInitOrder, p.standing(v), "wait", "the containers after this one wait until it has succeeded")
			return false
		}
	}
	return true
}

// mains keeps the regular containers running. Like the kubelet, which starts
// them one after the other, it lets a postStart hook hold back the first start
// of those behind it; without hooks they start at once.
func (p *planner) mains() {
	if p.pod.Annotations[AnnotationStartPolicy] == StartAllOrNothing && p.startTogether() {
		return
	}
	holder := ""
	for _, v := range p.views {
		if v.kind != mainKind {
			continue
		}
		if v.cur == nil && holder != "" {
			p.note(v.c.Name, RuleStartOrder, "", "wait", "the postStart hook of "+holder+" comes first")
			continue
		}
		p.maintain(v)
		if holder == "" && p.hookPending(v) {
			holder = v.c.Name
		}
	}
}

// remade tells that an instance was killed for another to take its place.
func (p *planner) remade(got *runtimeiface.Container) bool {
	rule := p.o.Kills[got.ID].Rule
	return rule == RuleImageChange || rule == RuleResize
}

func hasPostStart(c *corev1.Container) bool {
	return c.Lifecycle != nil && c.Lifecycle.PostStart != nil
}

func (p *planner) hookPending(v *view) bool {
	if !hasPostStart(v.c) {
		return false
	}
	if v.cur == nil {
		_, failed := p.o.Faults[v.c.Name]
		return !failed && p.o.Images[v.c.Name].Reason == ""
	}
	return v.cur.State != runtimeiface.ContainerExited && p.o.Hooks[v.cur.ID].State == ""
}

// standing describes a container in a few words.
func (p *planner) standing(v *view) string {
	if v.cur == nil {
		return "not there"
	}
	return string(v.cur.State)
}

// maintain starts, restarts or kills one container.
func (p *planner) maintain(v *view) {
	if f, busy := p.o.Flights[v.c.Name]; busy {
		p.underWay(v, f)
		return
	}
	switch {
	case p.busy[v.c.Name]: // a duplicate of it is being killed
	case v.cur == nil:
		if p.elsewhere(v) {
			return
		}
		level, why := p.firstLevel(v)
		p.start(v, p.nextAttempt(v), level, RuleStart, why, "")
	case v.cur.State == runtimeiface.ContainerCreated:
		p.startCreated(v)
	case v.cur.State == runtimeiface.ContainerExited:
		p.exited(v)
	case v.cur.State == runtimeiface.ContainerRunning:
		p.running(v)
	}
}

// firstLevel is the back-off level of a container's first start in a sandbox.
func (p *planner) firstLevel(v *view) (level int, why string) {
	switch {
	case v.past != nil && p.replaces() && p.failed(v.past):
		return nextLevel(*v.past), "it failed, and the pod was replaced"
	case v.past != nil || p.nextAttempt(v) > 0:
		return 1, "it has not run in this sandbox"
	}
	return 0, "it has not run yet"
}

// elsewhere tells whether an instance runs in another sandbox; it ends first.
func (p *planner) elsewhere(v *view) bool {
	for i := range p.instances[v.c.Name] {
		if alive(&p.instances[v.c.Name][i]) {
			return true
		}
	}
	return false
}

// underWay ends an action that the spec no longer wants.
func (p *planner) underWay(v *view, f Flight) {
	switch {
	case f.Type == ActionPull && f.Image != v.c.Image:
		p.cancel(v.c.Name, RuleImageChange, "the image is now "+v.c.Image)
	case f.Type == ActionPull:
		message := "pulling " + v.c.Image
		if progress := p.o.Images[v.c.Name].Progress; progress != "" {
			message += ": " + progress
		}
		if v.cur == nil {
			v.waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: message}
		}
		p.note(v.c.Name, RuleImage, "", "wait", message)
	case f.Type == ActionCreate && f.ID != p.sandbox.ID:
		p.cancel(v.c.Name, RuleSandbox, "its sandbox is gone")
	case f.Type == ActionPostStart && v.cur != nil && changed(*v.cur, v.c):
		p.cancel(v.c.Name, RuleImageChange, "the image is now "+v.c.Image)
	}
}

func (p *planner) startCreated(v *view) {
	if p.hold(v.c.Name, RuleStart) {
		return
	}
	if changed(*v.cur, v.c) {
		p.act(Action{Type: ActionRemove, Container: v.c.Name, ID: v.cur.ID, Attempt: v.cur.Attempt,
			Rule: RuleImageChange, Reason: "the image is now " + v.c.Image})
		return
	}
	p.act(Action{Type: ActionStart, Container: v.c.Name, ID: v.cur.ID, Attempt: v.cur.Attempt,
		Rule: RuleStart, Reason: "it was created and not started"})
}

// running kills a container that must not go on, and runs its postStart hook.
func (p *planner) running(v *view) {
	got := v.cur
	verdicts, hook, killed := p.o.Verdicts[got.ID], p.o.Hooks[got.ID], p.o.Kills[got.ID]
	switch {
	case changed(*got, v.c):
		p.kill(got, p.now.Add(p.podGrace()), RuleImageChange,
			fmt.Sprintf("Container %s definition changed, will be restarted", v.c.Name))
	case hook.State == HookFailed:
		p.kill(got, p.now.Add(p.podGrace()), RulePostStart, hook.Message)
	case verdicts.Startup == probe.Failure:
		p.kill(got, p.now.Add(p.probeGrace(v.c.StartupProbe)), RuleStartup,
			fmt.Sprintf("Container %s failed startup probe, will be restarted: %s", v.c.Name, verdicts.Output))
	case verdicts.Liveness == probe.Failure:
		p.kill(got, p.now.Add(p.probeGrace(v.c.LivenessProbe)), RuleLiveness,
			fmt.Sprintf("Container %s failed liveness probe, will be restarted: %s", v.c.Name, verdicts.Output))
	case killed.Rule != "":
		p.kill(got, p.now.Add(p.podGrace()), killed.Rule, killed.Message)
	case hasPostStart(v.c) && hook.State == "":
		if !p.hold(v.c.Name, RulePostStart) {
			p.act(Action{Type: ActionPostStart, Container: v.c.Name, ID: got.ID, Attempt: got.Attempt,
				Rule: RulePostStart, Reason: "the hook runs once after the start"})
		}
	}
}

func (p *planner) probeGrace(pr *corev1.Probe) time.Duration {
	if pr != nil && pr.TerminationGracePeriodSeconds != nil {
		return time.Duration(*pr.TerminationGracePeriodSeconds) * time.Second
	}
	return p.podGrace()
}

// kill asks for the end of an instance by deadline. A kill under way is only
// ever shortened; anything else under way in its lane is cancelled first.
func (p *planner) kill(got *runtimeiface.Container, deadline time.Time, rule, reason string) {
	a := Action{Type: ActionKill, Container: got.Name, ID: got.ID, Attempt: got.Attempt, Deadline: deadline,
		Grace: max(0, deadline.Sub(p.now)), Rule: rule, Reason: reason, Input: string(got.State)}
	f, busy := p.o.Flights[got.Name]
	switch {
	case p.busy[got.Name]:
	case busy && f.Type == ActionKill:
		if (p.ending != nil || rule == RuleRestartAll) && f.Deadline.After(deadline) {
			p.act(a)
		}
	case busy:
		p.cancel(got.Name, rule, reason)
	case !p.hold(got.Name, rule):
		p.act(a)
	}
}

// start brings the image and then makes the container.
func (p *planner) start(v *view, attempt uint32, level int, rule, reason, input string) {
	if id := p.image(v, attempt, rule); id != "" {
		p.act(Action{Type: ActionCreate, Container: v.c.Name, ID: p.sandbox.ID, Attempt: attempt, Level: level,
			Image: id, Rule: rule, Reason: reason, Input: input})
	}
}

// fetch brings the images of what will start first while the sandbox is made.
func (p *planner) fetch() {
	if p.sandbox != nil {
		return // one that is being replaced
	}
	for _, v := range p.views {
		f, busy := p.o.Flights[v.c.Name]
		switch {
		case busy && f.Type == ActionPull:
			p.underWay(v, f)
		case !busy && !p.elsewhere(v):
			p.image(v, p.nextAttempt(v), RuleImage)
		}
		if v.kind != mainKind {
			return
		}
	}
}

// image gives the ID of the container's image once it is there and nothing
// holds up its start. Otherwise it asks for it, or says what is waited for.
func (p *planner) image(v *view, attempt uint32, rule string) (id string) {
	name := v.c.Name
	p.showFault(v, name)
	if p.hold(name, rule) {
		return ""
	}
	img, policy := p.o.Images[name], PullPolicy(v.c)
	if img.Ref != v.c.Image {
		img = Image{}
	}
	fresh := policy != corev1.PullAlways || img.Attempt == attempt
	if img.Reason == "" && img.ID != "" && fresh {
		return img.ID
	}
	if img.Reason == "" || p.imageRetry(v, img) {
		p.act(Action{Type: ActionPull, Container: name, Attempt: attempt, Image: v.c.Image,
			Rule: RuleImage, Reason: "imagePullPolicy is " + string(policy), Input: v.c.Image})
	}
	return ""
}

// showFault makes what went wrong in a lane the reason that the container waits.
func (p *planner) showFault(v *view, lane string) {
	f, failed := p.o.Faults[lane]
	if !failed || f.Reason == reasonResize || f.Reason == reasonRefresh {
		return
	}
	v.waiting = &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	if f.Reason == "" {
		v.waiting.Reason = "ContainerCreating"
	}
}

// imageRetry shows a failed pull and tells whether to try again now.
func (p *planner) imageRetry(v *view, img Image) bool {
	v.waiting = &corev1.ContainerStateWaiting{Reason: img.Reason, Message: img.Message}
	if img.RetryAt.IsZero() {
		p.note(v.c.Name, RuleImage, img.Message, "wait", img.Reason+": until the spec changes")
		return false
	}
	if !img.RetryAt.After(p.now) {
		return true
	}
	if img.Reason == "ErrImagePull" {
		if shown := img.At.Add(errorShown); !p.now.Before(shown) {
			v.waiting.Reason = "ImagePullBackOff"
			v.waiting.Message = fmt.Sprintf("Back-off pulling image %q: %s", cmp.Or(img.Failed, v.c.Image), img.Message)
		} else {
			p.wake(shown, "show ImagePullBackOff", "ErrImagePull has been shown")
		}
	}
	p.note(v.c.Name, RuleImage, img.Message, "wait", "back-off of the pull until "+img.RetryAt.UTC().Format(time.RFC3339))
	p.wake(img.RetryAt, "pull "+v.c.Image, "the back-off of the pull ends")
	return false
}

// PullPolicy gives the container's imagePullPolicy, or what the API server
// would set: Always for the tag latest and for none, else IfNotPresent.
func PullPolicy(c *corev1.Container) corev1.PullPolicy {
	return pullPolicy(c.ImagePullPolicy, c.Image)
}

func pullPolicy(policy corev1.PullPolicy, image string) corev1.PullPolicy {
	if policy != "" {
		return policy
	}
	if tag, digest := imageTag(image); !digest && (tag == "" || tag == "latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func imageTag(ref string) (tag string, digest bool) {
	for i := len(ref) - 1; i >= 0; i-- {
		switch ref[i] {
		case '@':
			return "", true
		case ':':
			if tag == "" && !digest {
				tag = ref[i+1:]
				for j := range tag {
					if tag[j] == '/' { // a port
						return "", false
					}
				}
			}
		}
	}
	return tag, false
}
