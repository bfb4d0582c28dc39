package runtimetest

import (
	"fmt"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Exit ends a running container with a code, as if by itself. ErrNotFound,
// ErrNotRunning.
func (f *Fake) Exit(containerID string, code int32) error {
	return f.push(containerID, exited(code))
}

// OOM ends a running container for memory. ErrNotFound, ErrNotRunning.
func (f *Fake) OOM(containerID string) error {
	return f.push(containerID, outOfMemory)
}

func (f *Fake) push(containerID string, how exit) error {
	now := f.lock()
	defer f.unlock()
	c := f.containers[containerID]
	if c == nil {
		return fmt.Errorf("exit container %q: %w", containerID, runtimeiface.ErrNotFound)
	}
	if c.State != runtimeiface.ContainerRunning {
		return fmt.Errorf("exit container %s: %w", containerID, runtimeiface.ErrNotRunning)
	}
	f.end(c, now, how)
	return nil
}

// KillShim kills what keeps a sandbox: it becomes NotReady, and what ran in it
// exits without a witness. ErrNotFound.
func (f *Fake) KillShim(sandboxID string) error {
	now := f.lock()
	defer f.unlock()
	s := f.sandboxes[sandboxID]
	if s == nil {
		return fmt.Errorf("kill shim of sandbox %q: %w", sandboxID, runtimeiface.ErrNotFound)
	}
	f.stopSandbox(s, now, unknown)
	return nil
}

// Reboot ends every sandbox as KillShim does, without events, and closes every
// subscription. With forget, sandboxes and containers are gone altogether.
// Images and logs stay.
func (f *Fake) Reboot(forget bool) {
	now := f.lock()
	defer f.unlock()
	f.loseSubscriptions()
	for _, s := range f.sortedSandboxes() {
		f.stopSandbox(s, now, unknown)
		if forget {
			f.forgetSandbox(s, now)
		}
	}
}

// LoseEvents closes the channel of every subscription, as when the connection
// to a runtime breaks.
func (f *Fake) LoseEvents() {
	f.lock()
	defer f.unlock()
	f.loseSubscriptions()
}

// Silence keeps events from being published, until it is called with false:
// hints may be lost.
func (f *Fake) Silence(on bool) {
	f.lock()
	defer f.unlock()
	f.silent = on
}

// Emit publishes an event that nothing caused: hints may be wrong or late.
func (f *Fake) Emit(e runtimeiface.Event) {
	f.lock()
	defer f.unlock()
	f.send(e)
}

// ClockStepped tells that the clock of FakeConfig was set forth by so much, or
// back: what is planned stays as far off as it was. Call it right after.
func (f *Fake) ClockStepped(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.due {
		f.due[i].at = f.due[i].at.Add(by)
	}
	for _, c := range f.containers {
		if !c.killAt.IsZero() {
			c.killAt = c.killAt.Add(by)
		}
	}
	f.rearm()
}

// State is all that a Fake holds, as copies.
type State struct {
	Now        time.Time
	Sandboxes  []runtimeiface.Sandbox   // oldest first
	Containers []runtimeiface.Container // oldest first
	Images     []runtimeiface.Image     // by ID
}

// State gives everything at one moment, without being noted as a call.
func (f *Fake) State() State {
	st := State{Now: f.lock()}
	defer f.unlock()
	for _, s := range f.sortedSandboxes() {
		st.Sandboxes = append(st.Sandboxes, s.copy())
	}
	for _, c := range f.containersOf("") {
		st.Containers = append(st.Containers, c.copy())
	}
	for _, img := range f.sortedImages() {
		st.Images = append(st.Images, img.status())
	}
	return st
}

// Specs gives copies of what a container was made of: its sandbox's spec and
// its own. ErrNotFound.
func (f *Fake) Specs(containerID string) (runtimeiface.SandboxSpec, runtimeiface.ContainerSpec, error) {
	f.lock()
	defer f.unlock()
	c := f.containers[containerID]
	if c == nil {
		return runtimeiface.SandboxSpec{}, runtimeiface.ContainerSpec{}, fmt.Errorf("specs of container %q: %w", containerID, runtimeiface.ErrNotFound)
	}
	return f.sandboxes[c.SandboxID].spec.Clone(), c.spec.Clone(), nil
}
