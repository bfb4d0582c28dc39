package runtimetest

import (
	"context"
	"slices"
	"time"
)

// Op names a call of runtimeiface.Runtime.
type Op string

// The calls.
const (
	OpVersion         Op = "Version"
	OpRunSandbox      Op = "RunSandbox"
	OpStopSandbox     Op = "StopSandbox"
	OpRemoveSandbox   Op = "RemoveSandbox"
	OpSandboxStatus   Op = "SandboxStatus"
	OpListSandboxes   Op = "ListSandboxes"
	OpCreateContainer Op = "CreateContainer"
	OpStartContainer  Op = "StartContainer"
	OpStopContainer   Op = "StopContainer"
	OpRemoveContainer Op = "RemoveContainer"
	OpRunContainers   Op = "RunContainers"
	OpUpdateContainer Op = "UpdateContainer"
	OpContainerStatus Op = "ContainerStatus"
	OpListContainers  Op = "ListContainers"
	OpPullImage       Op = "PullImage"
	OpImageStatus     Op = "ImageStatus"
	OpListImages      Op = "ListImages"
	OpRemoveImage     Op = "RemoveImage"
	OpImageFilesystem Op = "ImageFilesystem"
	OpExec            Op = "Exec"
	OpAttach          Op = "Attach"
	OpPortForward     Op = "PortForward"
	OpReopenLog       Op = "ReopenLog"
	OpSubscribe       Op = "Subscribe"
)

// Call is one call that a Fake got. Fields that its Op does not have are zero;
// PodUID, SandboxID, Container and Attempt are looked up when only an ID was given.
type Call struct {
	Op          Op
	PodUID      string
	SandboxID   string
	ContainerID string
	// Container and Attempt are the container's identity, or Attempt the
	// sandbox's.
	Container string
	Attempt   uint32
	// Image is a reference or an ID, as given.
	Image   string
	Command []string
	Grace   time.Duration
	// At is when it began. Done tells that it has returned, with Err.
	At   time.Time
	Done bool
	Err  error
}

// Fault makes calls go wrong. Its zero fields do nothing; Delay comes first.
type Fault struct {
	// Op that it meets; "" is every one. Match, if not nil, chooses further.
	Op    Op
	Match func(Call) bool
	// Skip lets that many matching calls pass first, Times is how many are then
	// met; 0 is all of them.
	Skip, Times int
	// Delay of the call, on the fake's clock.
	Delay time.Duration
	// Hang keeps the call until its ctx ends, and gives ctx's error.
	Hang bool
	// Err is what the call gives.
	Err error
	// AfterEffect lets the call do its work before Hang and Err: a time-out
	// whose effect happened.
	AfterEffect bool
}

type armedFault struct {
	Fault
	seen, hit int
}

// Inject arms a fault until remove is called. Of several that match a call, the
// one armed first meets it.
func (f *Fake) Inject(fault Fault) (remove func()) {
	armed := &armedFault{Fault: fault}
	f.lock()
	defer f.unlock()
	f.faults = append(f.faults, armed)
	return func() {
		f.lock()
		defer f.unlock()
		f.faults = slices.DeleteFunc(f.faults, func(a *armedFault) bool { return a == armed })
	}
}

// ClearFaults removes every fault. Calls that hang go on hanging.
func (f *Fake) ClearFaults() {
	f.lock()
	defer f.unlock()
	f.faults = nil
}

// Calls gives what was called, in order of beginning, for the ops named or all.
func (f *Fake) Calls(ops ...Op) []Call {
	f.lock()
	defer f.unlock()
	calls := make([]Call, 0, len(f.calls))
	for _, c := range f.calls {
		if len(ops) == 0 || slices.Contains(ops, c.Op) {
			got := *c
			got.Command = slices.Clone(c.Command)
			calls = append(calls, got)
		}
	}
	return calls
}

// ForgetCalls empties what Calls gives.
func (f *Fake) ForgetCalls() {
	f.lock()
	defer f.unlock()
	f.calls = nil
}

// do is the way of every call: noted, perhaps met by a fault, done.
func (f *Fake) do(ctx context.Context, call Call, effect func() error) error {
	noted := f.note(&call)
	err := f.perform(ctx, f.faultFor(call), effect)
	f.lock()
	noted.Done, noted.Err = true, err
	f.unlock()
	return err
}

func (f *Fake) note(call *Call) *Call {
	call.At = f.lock()
	defer f.unlock()
	if c := f.containers[call.ContainerID]; c != nil {
		call.SandboxID, call.Container, call.Attempt = c.SandboxID, c.Name, c.Attempt
	}
	if s := f.sandboxes[call.SandboxID]; s != nil {
		call.PodUID = s.UID
		if call.Container == "" {
			call.Attempt = s.Attempt
		}
	}
	noted := *call
	f.calls = append(f.calls, &noted)
	return &noted
}

func (f *Fake) perform(ctx context.Context, fault *Fault, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if fault == nil {
		return effect()
	}
	if err := f.sleep(ctx, fault.Delay); err != nil {
		return err
	}
	if fault.AfterEffect || !fault.Hang && fault.Err == nil {
		if err := effect(); err != nil {
			return err
		}
	}
	if fault.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fault.Err
}

// faultFor asks each Match without holding mu.
func (f *Fake) faultFor(call Call) *Fault {
	f.lock()
	armed := slices.Clone(f.faults)
	f.unlock()
	for _, a := range armed {
		if a.Op != "" && a.Op != call.Op || a.Match != nil && !a.Match(call) {
			continue
		}
		if f.take(a) {
			return &a.Fault
		}
	}
	return nil
}

func (f *Fake) take(a *armedFault) bool {
	f.lock()
	defer f.unlock()
	a.seen++
	if a.seen <= a.Skip || a.Times > 0 && a.hit >= a.Times {
		return false
	}
	a.hit++
	return true
}
