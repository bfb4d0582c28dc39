package oci

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// shimEvent takes what a shim tells, in its order.
func (r *Runtime) shimEvent(s *sandbox, m shim.Message) {
	switch m.Op {
	case shim.EventCreate:
		pid, _ := strconv.Atoi(m.Field(1))
		r.markCreated(s, m.Field(0), pid)
	case shim.EventStart:
		nano, err := strconv.ParseInt(m.Field(1), 10, 64)
		if err == nil {
			pid, _ := strconv.Atoi(m.Field(2))
			r.markStarted(s, shim.Live{ID: m.Field(0), PID: pid, Started: time.Unix(0, nano)})
		}
	case shim.EventExit:
		e, err := shim.ParseExit(m)
		if err != nil {
			r.cfg.Logger.Error(err, "event of shim", "sandboxID", s.ID)
			return
		}
		r.markBegun(s, e.ID)
		r.markExited(s, e.ID, shim.ExitRecord{Code: e.Code, OOM: e.OOM, StartError: e.StartError, UnixNano: e.At.UnixNano()})
	}
}

// markCreated shows a container that is made.
func (r *Runtime) markCreated(s *sandbox, id string, pid int) {
	r.mu.Lock()
	c := s.containers[id]
	if c == nil || !c.hidden {
		r.mu.Unlock()
		return
	}
	c.hidden = false
	finished := c.finished
	ended := c.state == runtimeiface.ContainerExited // killed before it was told of
	if !ended {
		c.pid = pid
	}
	r.mu.Unlock()
	r.event(runtimeiface.ContainerMade, s, id, time.Now())
	if ended {
		r.event(runtimeiface.ContainerStopped, s, id, finished)
	}
	r.cfg.Logger.V(4).Info("container created", "podUID", s.spec.UID, "container", c.Spec.Name, "containerID", id)
}

func (r *Runtime) markStarted(s *sandbox, l shim.Live) {
	id, at := l.ID, l.Started
	r.mu.Lock()
	c := s.containers[id]
	if c == nil || c.state != runtimeiface.ContainerCreated {
		r.mu.Unlock()
		return
	}
	c.state, c.started, c.pid = runtimeiface.ContainerRunning, at, l.PID
	r.mu.Unlock()
	r.event(runtimeiface.ContainerStarted, s, id, at)
	r.cfg.Logger.V(4).Info("container started", "podUID", s.spec.UID, "container", c.Spec.Name, "containerID", id)
}

// markExited takes the first exit of a container that is told.
func (r *Runtime) markExited(s *sandbox, id string, e shim.ExitRecord) {
	r.mu.Lock()
	c := s.containers[id]
	if c == nil || c.state == runtimeiface.ContainerExited {
		r.mu.Unlock()
		return
	}
	c.setExited(e)
	finished, hidden := c.finished, c.hidden
	r.mu.Unlock()
	if hidden { // what is undone was never there
		return
	}
	r.event(runtimeiface.ContainerStopped, s, id, finished)
	r.cfg.Logger.V(4).Info("container exited", "podUID", s.spec.UID, "container", c.Spec.Name, "containerID", id,
		"exitCode", e.Code, "reason", c.reason)
}

// setExited is called with Runtime.mu held, or before the container is known.
func (c *container) setExited(e shim.ExitRecord) {
	c.state, c.pid = runtimeiface.ContainerExited, 0
	c.exitCode, c.finished = int32(e.Code), time.Unix(0, e.UnixNano)
	switch {
	case e.Unknown:
		c.reason, c.message = runtimeiface.ReasonUnknown, "nobody saw the exit: the pod's shim or the machine was killed"
	case e.StartError != "":
		c.reason, c.message = runtimeiface.ReasonStartError, e.StartError
	case e.OOM:
		c.reason = runtimeiface.ReasonOOMKilled
	case e.Code == 0:
		c.reason = runtimeiface.ReasonCompleted
	default:
		c.reason = runtimeiface.ReasonError
	}
	close(c.done)
}

// markUnknown ends containers whose shim is gone: by what is on disk, else by
// saying that nobody knows.
func (r *Runtime) markUnknown(s *sandbox) {
	r.mu.RLock()
	var left []*container
	for _, c := range s.containers {
		if c.state != runtimeiface.ContainerExited {
			left = append(left, c)
		}
	}
	r.mu.RUnlock()
	for _, c := range left {
		r.markEnded(c)
	}
}

// markEnded goes by what a shim left on disk of a container that it does not
// keep any more: it may have died before it told.
func (r *Runtime) markEnded(c *container) {
	e, err := readExit(c.dir)
	if err != nil {
		e = r.writeUnknown(c)
	}
	r.markBegun(c.sandbox, c.ID)
	r.markExited(c.sandbox, c.ID, e)
}

// markBegun has the start known before the exit. An agent that comes while a
// container ends may hear of the exit alone.
func (r *Runtime) markBegun(s *sandbox, id string) {
	r.mu.RLock()
	c := s.containers[id]
	told := c == nil || c.state != runtimeiface.ContainerCreated
	r.mu.RUnlock()
	if told {
		return
	}
	if at := readStarted(c.dir); !at.IsZero() {
		r.markStarted(s, shim.Live{ID: id, Started: at})
	}
}

func (r *Runtime) writeUnknown(c *container) shim.ExitRecord {
	e := shim.ExitRecord{Code: runtimeiface.ExitCodeUnknown, Unknown: true, UnixNano: time.Now().UnixNano()}
	data, err := json.Marshal(e)
	if err == nil {
		faultPoint("exit unknown")
		err = shim.WriteFile(c.dir, shim.ExitName, data)
	}
	if err != nil {
		r.cfg.Logger.Error(err, "record unknown exit", "containerID", c.ID)
	}
	return e
}

func readExit(dir string) (shim.ExitRecord, error) {
	var e shim.ExitRecord
	data, err := os.ReadFile(filepath.Join(dir, shim.ExitName))
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(data, &e)
}

func readStarted(dir string) time.Time {
	data, _ := os.ReadFile(filepath.Join(dir, shim.StartedName))
	nano, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, nano)
}

// mourn waits for the end of a connection. If nobody meant it, the shim is
// connected again, or, if it is dead, so is the sandbox.
func (r *Runtime) mourn(s *sandbox, client *shimClient) {
	r.mourners.Go(func() {
		<-client.lost
		if r.begin() != nil {
			return
		}
		defer r.work.Done()
		unlock, err := r.locks.lock(context.Background(), s.ID)
		if err != nil {
			return
		}
		defer unlock()
		r.mu.RLock()
		meant := s.stopping || s.shim != client
		r.mu.RUnlock()
		if meant {
			return
		}
		if shimAlive(s.dir) && r.reconnect(s) == nil {
			return
		}
		r.cfg.Logger.Info("shim is lost: sandbox ends", "podUID", s.spec.UID, "sandboxID", s.ID)
		faultPoint("shim found lost")
		if err := r.stopSandbox(s); err != nil {
			r.cfg.Logger.Error(err, "end sandbox without shim", "sandboxID", s.ID)
		}
	})
}

// reconnect takes up a shim that lives: its containers, and events from now on.
func (r *Runtime) reconnect(s *sandbox) error {
	client, err := dialShim(s.dir)
	if err != nil {
		return err
	}
	r.setShim(s, client)
	// It waits for what an agent before has begun.
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	m, err := client.call(ctx, shim.OpWatch)
	if err != nil {
		client.close()
		return err
	}
	lives, err := shim.ParseState(m)
	if err != nil {
		client.close()
		return err
	}
	if s.spec.UserNamespace != nil {
		if err := r.findHolder(ctx, client); err != nil {
			client.close()
			return err
		}
	}
	for _, c := range r.loadContainers(s) { // what became whole meanwhile
		if !r.knows(c.ID) {
			r.addContainer(c)
		}
	}
	live := map[string]bool{}
	for _, l := range lives {
		live[l.ID] = true
		r.mu.Lock()
		if c := s.containers[l.ID]; c != nil {
			c.pid = l.PID
		}
		r.mu.Unlock()
		if !l.Started.IsZero() {
			r.markStarted(s, l)
		}
	}
	r.mu.RLock()
	var ended []*container
	for id, c := range s.containers {
		if !live[id] && c.state != runtimeiface.ContainerExited && !c.hidden {
			ended = append(ended, c)
		}
	}
	r.mu.RUnlock()
	for _, c := range ended {
		r.markEnded(c)
	}
	r.mourn(s, client)
	return nil
}
