package podlifecycle

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// errorShown is how long a particular reason (RunContainerError, ErrImagePull)
// stands before it becomes the general one (CrashLoopBackOff, ImagePullBackOff).
// The kubelet shows it until its next sync.
const errorShown = time.Second

// restarts tells whether a container that exited will be started again, and
// by which words.
func (p *planner) restarts(v *view, got *runtimeiface.Container) (bool, string) {
	if p.o.Kills[got.ID].Rule == RuleImageChange && changed(*got, v.c) {
		return true, "its image was changed"
	}
	switch p.o.Kills[got.ID].Rule {
	case RuleResize:
		return true, "its resources were changed"
	case RuleRestartAll:
		return true, "all containers restart"
	}
	switch v.kind {
	case ephemeralKind:
		return false, "ephemeral containers run once"
	case sidecarKind:
		return true, "sidecars are always restarted"
	}
	policy := p.pod.Spec.RestartPolicy
	if own := v.c.RestartPolicy; own != nil {
		policy = corev1.RestartPolicy(*own)
	}
	if action := ruleFor(v.c, got.ExitCode); action != "" {
		return true, fmt.Sprintf("restart rule %s names exit code %d", action, got.ExitCode)
	}
	if v.kind == initKind && policy == corev1.RestartPolicyAlways {
		policy = corev1.RestartPolicyOnFailure
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false, "restartPolicy is Never"
	case corev1.RestartPolicyOnFailure:
		return got.ExitCode != 0, "restartPolicy is OnFailure"
	default:
		return true, "restartPolicy is Always"
	}
}

func matches(codes *corev1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if codes == nil {
		return false
	}
	in := slices.Contains(codes.Values, code)
	return in == (codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// completed tells why the pod has nothing left to do, or "".
func (p *planner) completed() string {
	mains, done := 0, 0
	for _, v := range p.views {
		switch v.kind {
		case initKind:
			last := p.newest(v)
			if last == nil || last.State != runtimeiface.ContainerExited || last.ExitCode == 0 || p.mainStarted() {
				continue
			}
			if again, why := p.restarts(v, last); !again {
				return fmt.Sprintf("init container %s exited with %d and %s", v.c.Name, last.ExitCode, why)
			}
		case mainKind:
			mains++
			last := p.newest(v)
			if last == nil || last.State != runtimeiface.ContainerExited {
				continue
			}
			if again, _ := p.restarts(v, last); !again {
				done++
			}
		}
	}
	if mains > 0 && done == mains {
		return "every container has ended and none is restarted"
	}
	return ""
}

// newest is the instance that tells how the container stands, whichever
// sandbox it is in.
func (p *planner) newest(v *view) *runtimeiface.Container {
	if v.cur != nil {
		return v.cur
	}
	for i := range p.instances[v.c.Name] {
		if alive(&p.instances[v.c.Name][i]) {
			return &p.instances[v.c.Name][i]
		}
	}
	if list := p.instances[v.c.Name]; len(list) > 0 {
		return &list[0]
	}
	return nil
}

// elapsed since the exit of got, by whichever clock says more: the wall clock
// may have been set back.
func (p *planner) elapsed(got *runtimeiface.Container) time.Duration {
	return max(p.now.Sub(got.FinishedAt), p.o.ExitedFor[got.ID])
}

// exited decides about a container that has exited: restart now or later, or not.
func (p *planner) exited(v *view) {
	got := v.cur
	input := fmt.Sprintf("attempt %d exited with %d (%s) after %v", got.Attempt, got.ExitCode, got.Reason, ran(*got).Round(time.Millisecond))
	again, why := p.restarts(v, got)
	if !again {
		p.note(v.c.Name, RuleRestartPolicy, input, "leave", why)
		return
	}
	level := nextLevel(*got)
	if changed(*got, v.c) || p.o.Kills[got.ID].Rule == RuleResize {
		level = 1
	}
	delay, gone := RestartDelay(level), p.elapsed(got)
	if left := delay - gone; left > 0 {
		at := p.now.Add(left)
		p.crashLoop(v, delay, gone)
		p.note(v.c.Name, RuleBackoff, input, "wait", fmt.Sprintf("back-off of %v, level %d, until %s", delay, level, at.UTC().Format(time.RFC3339)))
		p.wake(at, "restart "+v.c.Name, fmt.Sprintf("the back-off of %v ends", delay))
		return
	}
	p.start(v, p.nextAttempt(v), level, RuleRestartPolicy, why, input)
}

func (p *planner) crashLoop(v *view, delay, gone time.Duration) {
	message := fmt.Sprintf("back-off %v restarting failed container=%s pod=%s_%s(%s)", delay, v.c.Name, p.pod.Name, p.pod.Namespace, p.pod.UID)
	v.waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: message}
	reason, text := "", ""
	switch {
	case v.cur.Reason == runtimeiface.ReasonStartError:
		reason, text = "RunContainerError", v.cur.Message
	case p.o.Kills[v.cur.ID].Rule == RulePostStart:
		reason, text = "PostStartHookError", p.o.Kills[v.cur.ID].Message
	default:
		return
	}
	if gone < errorShown {
		v.waiting.Reason, v.waiting.Message = reason, text
		p.wake(p.now.Add(errorShown-gone), "show CrashLoopBackOff", reason+" has been shown")
	}
}

// nextAttempt counts on from everything known of the container, in any
// sandbox or only in the last status.
func (p *planner) nextAttempt(v *view) uint32 {
	next := uint32(0)
	if list := p.instances[v.c.Name]; len(list) > 0 {
		next = list[0].Attempt + 1
	}
	if s := p.prior(v); s != nil && (s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil) {
		next = max(next, uint32(s.RestartCount)+1)
	}
	return next
}
