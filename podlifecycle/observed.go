package podlifecycle

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/runtimeiface"
)

// Observed is everything that Plan knows beside the pod. Its zero value is a
// node on which nothing of the pod is there yet. Plan changes nothing in it.
type Observed struct {
	// Sandboxes and Containers of the pod's UID, in any order, from a look at
	// the runtime that began after the last action in Flights had ended.
	Sandboxes  []runtimeiface.Sandbox
	Containers []runtimeiface.Container
	// Flights are the actions under way, by container name, or "" for those of
	// the pod as a whole. Plan begins nothing beside them.
	Flights map[string]Flight
	// Images by container name.
	Images map[string]Image
	// Faults by container name, or "" for the pod: what went wrong last, until
	// it went well.
	Faults map[string]Fault
	// Verdicts of probes, Hooks (postStart), Kills (why this agent killed it)
	// and Messages (termination messages), by container ID.
	Verdicts map[string]Verdicts
	Hooks    map[string]Hook
	Kills    map[string]Kill
	Messages map[string]string
	// ExitedFor tells by container ID how long the exit has been known, by a
	// clock that nobody can set. It counts if it is more than now - FinishedAt.
	ExitedFor map[string]time.Duration
	// Prepared: volumes, directories and cgroup of the pod are there.
	Prepared bool
	// Stale: the volumes' content is older than what the pod refers to.
	Stale bool
	// Allocated is what the node has granted of the resources that the pod asks
	// for; nil grants all. ResizePending says why it is not all.
	Allocated     *Allocation
	ResizePending *Rejection
	// Actuated tells by container ID of what size its cgroup was last made, CPU
	// and memory only; one that is not there has it in AnnotationSize. Cgroup is
	// that of the pod's, nil if somebody else sees to it.
	Actuated map[string]corev1.ResourceRequirements
	Cgroup   *corev1.ResourceRequirements
	// MemoryUsage in bytes by container ID, and "" for the pod, if known; looked
	// at where a limit is to become less.
	MemoryUsage map[string]int64
	// Ending, if not nil, says that the pod shall end. It never becomes nil again.
	Ending *Ending
	// Ended are the steps of the end already done.
	Ended Ended
	// Rejected, if not nil: the node does not take the pod.
	Rejected *Rejection
	// Blocked, if not "", says what the pod waits for before anything is begun.
	Blocked string
	// Prior is the status reported last, by this agent or an earlier one.
	Prior corev1.PodStatus
	// Node is where the pod runs.
	Node NodeFacts
}

// NodeFacts are what of the node stands in a pod's status.
type NodeFacts struct {
	// HostIPs, the primary first.
	HostIPs []netip.Addr
	// Scheme before "://" in container IDs; "" means "unknown".
	Scheme string
	// KeptDead is how many dead instances of each container stay; 0 means 1.
	KeptDead int
}

// Flight is an action under way.
type Flight struct {
	Type ActionType
	// ID as in the Action.
	ID string
	// Deadline of ActionKill: when SIGKILL follows.
	Deadline time.Time
	// Image of ActionPull.
	Image string
	// Cancelled: it was told to end, and has not yet.
	Cancelled bool
}

// Image is where the image of one container stands.
type Image struct {
	// Ref as in the spec; a state of another Ref does not count.
	Ref string
	// Attempt of the container for which the registry was asked.
	Attempt uint32
	// ID once it is there, as CreateContainer wants it.
	ID string
	// Reason is ErrImagePull, InvalidImageName or ErrImageNeverPull, with
	// Message, if the last try failed At; "" if it did not. Failed is what could
	// not be had: Ref, or the reference of an image volume; "" is Ref.
	Reason, Message string
	Failed          string
	At              time.Time
	// RetryAt is when to try again; zero: not before the spec changes.
	RetryAt time.Time
	// Progress, such as "12 of 30 MiB", while a pull is under way.
	Progress string
}

// Fault is a failed action, shown as a waiting reason and tried again later.
type Fault struct {
	// Reason as Kubernetes shows it, such as CreateContainerConfigError.
	Reason, Message string
	At, RetryAt     time.Time
}

// Verdicts of one container's probes.
type Verdicts struct {
	Startup, Liveness, Readiness probe.Result
	// Output of the attempt that failed liveness or startup.
	Output string
}

// HookState is where a postStart hook stands.
type HookState string

// States of a postStart hook; "" is not run yet.
const (
	HookDone   HookState = "done"
	HookFailed HookState = "failed"
)

// Hook is a postStart hook's outcome.
type Hook struct {
	State   HookState
	Message string
}

// Kill is why a container was killed.
type Kill struct {
	Rule    string
	Message string
}

// Ending says that, why and how fast a pod ends. It is never taken back.
type Ending struct {
	// Reason is one of the Ending constants.
	Reason string
	// Message for people.
	Message string
	// Since is when it was decided, Grace how long programs may take from then.
	Since time.Time
	Grace time.Duration
	// Failed makes the phase Failed with Reason and Message in the status.
	Failed bool
	// Disruption, if not "", makes the condition DisruptionTarget true, with reason
	// TerminationByKubelet and this message.
	Disruption string
	// Forget: nothing shall remain of the pod, because nobody wants it any
	// more. Otherwise its status and dead containers stay.
	Forget bool
}

// Reasons of an Ending.
const (
	EndingDeleted   = "Deleted"          // no source wants it any more
	EndingReplaced  = "Replaced"         // another pod of its name takes its place
	EndingOrphaned  = "Orphaned"         // found in the runtime, wanted by nobody
	EndingStopped   = "Stopped"          // the agent was told to stop everything
	EndingCompleted = "Completed"        // all its containers have done their work
	EndingDeadline  = "DeadlineExceeded" // activeDeadlineSeconds
	EndingSandbox   = "SandboxLost"      // its sandbox is gone and it may not restart
	EndingShutdown  = shutdown.Reason    // the node is about to go down
	EndingPreempted = "Preempting"       // a critical pod needs its room
	EndingEvicted   = "Evicted"          // the node is short of something, or the pod took more than its limit
)

// Merge gives the ending that follows when other is asked for too: forgetting
// stays, and the deadline can only come nearer. Neither is changed.
func (e *Ending) Merge(other Ending) *Ending {
	if e == nil {
		return &other
	}
	merged := *e
	if other.Forget && !e.Forget {
		merged.Forget = true
		if !e.Failed { // else the status goes on to say why it failed
			merged.Reason, merged.Message = other.Reason, other.Message
		}
	}
	if other.deadline().Before(merged.deadline()) {
		// The same start with less grace, so that both only shrink.
		merged.Grace = max(0, other.deadline().Sub(merged.Since))
	}
	return &merged
}

// resumed is the ending for an agent that finds it in its journal, nil for nil:
// by the clock that nobody can set, and never more grace than there was if the
// node's clock was set back meanwhile.
func (e *Ending) resumed(now time.Time) *Ending {
	if e == nil {
		return nil
	}
	found := *e
	found.Since = now.Add(-max(0, now.Round(0).Sub(e.Since)))
	return &found
}

func (e *Ending) deadline() time.Time { return e.Since.Add(e.Grace) }

// Ended are the steps after the last container has exited.
type Ended struct {
	// Persisted: the final status is where a restart finds it.
	Persisted bool
	// Torn: volumes, directories and cgroup are gone.
	Torn bool
}

// Rejection is why the node does not take a pod.
type Rejection struct {
	// Reason and Message as the status shows them.
	Reason, Message string
	// Field of the pod that asks for what the node does not have; may be "".
	Field string
	// Pending keeps the phase Pending, because the cause may go away. It has no
	// meaning for a resize.
	Pending bool
}
