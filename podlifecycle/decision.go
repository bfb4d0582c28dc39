package podlifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ActionType says what to do.
type ActionType string

// The actions. Each names what it needs in the fields of Action.
const (
	// ActionPrepare makes cgroup, directories and volumes.
	ActionPrepare ActionType = "prepare"
	// ActionRefresh brings new ConfigMaps, Secrets and labels into the volumes.
	ActionRefresh ActionType = "refresh"
	// ActionRunSandbox: Attempt.
	ActionRunSandbox ActionType = "run-sandbox"
	// ActionStopSandbox and ActionRemoveSandbox: ID.
	ActionStopSandbox   ActionType = "stop-sandbox"
	ActionRemoveSandbox ActionType = "remove-sandbox"
	// ActionPull brings Image for Container and Attempt, as its pull policy says.
	ActionPull ActionType = "pull"
	// ActionCreate makes Container with Attempt and Level in sandbox ID from
	// image Image, an image ID, and starts it.
	ActionCreate ActionType = "create"
	// ActionStartAll does what ActionCreate would for each of Group, in sandbox ID:
	// creates all, then starts all; if one cannot be created none is started.
	ActionStartAll ActionType = "start-all"
	// ActionStart starts container ID, which was created and not started.
	ActionStart ActionType = "start"
	// ActionPostStart runs the hook of container ID.
	ActionPostStart ActionType = "post-start"
	// ActionResize sets Resource of the cgroup of container ID, or with none of the
	// pod's, to what Size has of it.
	ActionResize ActionType = "resize"
	// ActionKill runs the preStop hook of container ID, then the stop signal,
	// and SIGKILL at Deadline. Under way with a later one: Deadline counts.
	ActionKill ActionType = "kill"
	// ActionRemove forgets container ID, which does not run.
	ActionRemove ActionType = "remove"
	// ActionCancel ends the flight of Container, which is not wanted any more.
	ActionCancel ActionType = "cancel"
	// ActionPersist stores the final status.
	ActionPersist ActionType = "persist"
	// ActionTeardown removes volumes, directories and cgroup.
	ActionTeardown ActionType = "teardown"
)

// Action is one thing to do now.
type Action struct {
	Type ActionType `json:"type"`
	// Container by name; "" is the pod as a whole.
	Container string `json:"container,omitempty"`
	ID        string `json:"id,omitempty"`
	Attempt   uint32 `json:"attempt,omitempty"`
	Level     int    `json:"level,omitempty"`
	Image     string `json:"image,omitempty"`
	// Group of ActionStartAll are the ActionCreate of its containers.
	Group []Action `json:"group,omitempty"`
	// Resource and Size of ActionResize.
	Resource corev1.ResourceName         `json:"resource,omitempty"`
	Size     corev1.ResourceRequirements `json:"size,omitzero"`
	// Deadline of ActionKill; Grace is what is left until then.
	Deadline time.Time     `json:"deadline,omitzero"`
	Grace    time.Duration `json:"grace,omitempty"`
	// Rule that asks for it, why, and what was seen.
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
	Input  string `json:"input,omitempty"`
}

// Next is the next thing that will be done if nothing happens before.
type Next struct {
	// At is zero in Explanation.Coming for what has no time.
	At     time.Time `json:"at,omitzero"`
	Action string    `json:"action"`
	Reason string    `json:"reason"`
}

// Record is one decision: what was seen, which rule decided what, and what
// came of it. Equal ones in a row are one with a Count.
type Record struct {
	Time time.Time `json:"time"`
	// Last is when it was so last, if Count is more than 1.
	Last      time.Time `json:"last,omitzero"`
	Count     int       `json:"count,omitempty"`
	Container string    `json:"container,omitempty"`
	Rule      string    `json:"rule"`
	Input     string    `json:"input,omitempty"`
	Action    string    `json:"action"`
	Reason    string    `json:"reason"`
	// Result is "done", "failed", "cancelled", or "" while it is under way or
	// when there was nothing to do. Took is how long it took.
	Result string        `json:"result,omitempty"`
	Error  string        `json:"error,omitempty"`
	Took   time.Duration `json:"took,omitempty"`
}

// Decision is what Plan gives.
type Decision struct {
	// Actions to begin now, in this order; each may go on in parallel with
	// those of other containers.
	Actions []Action
	// Status to report.
	Status corev1.PodStatus
	// Next, if not nil, is when to plan again at the latest.
	Next *Next
	// Records of the decisions not to act (back-off, waiting, not ready), with
	// Time and Count left to whoever keeps them.
	Records []Record
	// Ending, if not nil, must be given as Observed.Ending from now on.
	Ending *Ending
	// Done: the pod has ended and everything that its end asks for is done.
	Done bool
}

// Rules that decide; Record.Rule and Action.Rule are one of them.
const (
	RuleAdmission      = "admission"
	RulePreemption     = "preemption"
	RuleEviction       = "eviction"
	RuleBlocked        = "one-at-a-time"
	RulePrepare        = "prepare"
	RuleSandbox        = "sandbox"
	RuleInitOrder      = "init-order"
	RuleStart          = "start"
	RuleStartOrder     = "start-order"
	RuleAllOrNothing   = "all-or-nothing"
	RuleReplacePod     = "replace-pod"
	RuleRestartPolicy  = "restart-policy"
	RuleBackoff        = "back-off"
	RuleImage          = "image"
	RuleFault          = "fault"
	RulePostStart      = "post-start"
	RuleImageChange    = "image-change"
	RuleResize         = "resize"
	RuleRestartAll     = "restart-all"
	RuleLiveness       = "liveness-probe"
	RuleStartup        = "startup-probe"
	RuleReadiness      = "readiness-probe"
	RuleDuplicate      = "one-instance"
	RuleEnding         = "ending"
	RuleEndingOrder    = "ending-order"
	RuleDeadline       = "active-deadline"
	RuleCompleted      = "completed"
	RuleGarbage        = "garbage"
	RuleRefresh        = "refresh"
	RuleImageGC        = "image-gc"
	RuleLogs           = "logs"
	RuleStrays         = "strays"
	RuleShutdown       = "shutdown"
	RuleTerminalStatus = "terminal-status"
	RuleJournal        = "journal"
)
