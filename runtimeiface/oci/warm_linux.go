package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// warmRest is how long no sandbox must have been made before a shim is started
// ahead: what was asked for goes first.
const warmRest = 100 * time.Millisecond

// warmNamespaces are those that most sandboxes want.
const warmNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// warmShim waits for a sandbox, in namespaces of its own. On disk it is a
// sandbox without a record: what a killed agent leaves of it goes with what was
// half made.
type warmShim struct {
	id, dir string
	client  *shimClient
}

// namespacesOf are those that the shim of a sandbox is started in.
func namespacesOf(spec runtimeiface.SandboxSpec) (flags uintptr) {
	if spec.UserNamespace != nil {
		return 0 // see holdUserNamespace
	}
	if spec.Network != runtimeiface.NamespaceHost {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if spec.IPC != runtimeiface.NamespaceHost {
		flags |= unix.CLONE_NEWIPC
	}
	return flags
}

// keepWarm starts shims ahead until the Runtime is closed.
func (r *Runtime) keepWarm() {
	for {
		select {
		case <-r.closing:
			return
		case <-r.cold:
		}
		if !r.rest() {
			return
		}
		r.dropDead()
		for r.warmCount() < r.cfg.WarmShims {
			w, err := r.makeWarm()
			if err != nil {
				r.cfg.Logger.Error(err, "start shim ahead")
				break // the next sandbox starts its own, and this is tried again
			}
			r.addWarm(w)
		}
	}
}

// rest waits until no sandbox has been made for a while. False: it is closed.
func (r *Runtime) rest() bool {
	for {
		select {
		case <-r.closing:
			return false
		case <-r.cold:
		case <-time.After(warmRest):
			return true
		}
	}
}

// wantWarm tells keepWarm that a sandbox is being made.
func (r *Runtime) wantWarm() {
	select {
	case r.cold <- struct{}{}:
	default:
	}
}

func (r *Runtime) makeWarm() (*warmShim, error) {
	w := &warmShim{id: newID()}
	w.dir = filepath.Join(r.cfg.Root, sandboxesDir, w.id)
	err := os.MkdirAll(filepath.Join(w.dir, shim.ContainersDir), 0o700)
	if err == nil {
		w.client, err = r.startShim(w.dir, warmNamespaces)
	}
	if err != nil {
		_ = os.RemoveAll(w.dir) // else it goes with the next Open
		return nil, err
	}
	return w, nil
}

func (r *Runtime) addWarm(w *warmShim) {
	r.mu.Lock()
	r.warm = append(r.warm, w)
	r.mu.Unlock()
}

// keepForNext takes back what was not used, if anything.
func (r *Runtime) keepForNext(w *warmShim) {
	if w != nil {
		r.addWarm(w)
	}
}

func (r *Runtime) warmCount() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.warm)
}

func (r *Runtime) popWarm() *warmShim {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.warm) == 0 {
		return nil
	}
	w := r.warm[0]
	r.warm = r.warm[1:]
	return w
}

// takeWarm gives a shim that a sandbox of spec can have, or nil.
func (r *Runtime) takeWarm(spec runtimeiface.SandboxSpec) *warmShim {
	r.wantWarm()
	if namespacesOf(spec) != warmNamespaces {
		return nil
	}
	for w := r.popWarm(); w != nil; w = r.popWarm() {
		if shimAlive(w.dir) {
			return w
		}
		r.endWarm(w)
	}
	return nil
}

// dropDead takes away those that have died while they waited.
func (r *Runtime) dropDead() {
	for range r.warmCount() {
		w := r.popWarm()
		switch {
		case w == nil:
		case shimAlive(w.dir):
			r.addWarm(w)
		default:
			r.endWarm(w)
		}
	}
}

// dropWarm ends all shims that wait.
func (r *Runtime) dropWarm() {
	for w := r.popWarm(); w != nil; w = r.popWarm() {
		r.endWarm(w)
	}
}

// endWarm has a shim end itself, as one does that has no agent and no sandbox.
func (r *Runtime) endWarm(w *warmShim) {
	w.client.close()
	waitGone(w.dir)
	err := killShim(w.dir)
	reapShim(w.client.own)
	if err == nil {
		err = os.RemoveAll(w.dir)
	}
	if err != nil {
		r.cfg.Logger.Error(fmt.Errorf("end shim started ahead: %w", err), "it goes with the next Open", "dir", w.dir)
	}
}
