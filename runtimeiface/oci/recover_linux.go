package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// recoverAtOnce is how many sandboxes Open looks at at the same time.
const recoverAtOnce = 16

// recover makes what is on disk and what runs agree.
func (r *Runtime) recover() error {
	entries, err := os.ReadDir(filepath.Join(r.cfg.Root, sandboxesDir))
	if err != nil {
		return err
	}
	var keep []*sandbox
	var half []*sandbox
	for _, e := range entries {
		s, whole := r.loadSandbox(e.Name())
		if whole {
			keep = append(keep, s)
		} else {
			half = append(half, s)
		}
	}
	slices.SortFunc(keep, func(a, b *sandbox) int { return a.CreatedAt.Compare(b.CreatedAt) })
	var containers []*container
	for _, s := range keep {
		r.seq++
		s.seq = r.seq
		r.sandboxes[s.ID] = s
		containers = append(containers, r.loadContainers(s)...)
	}
	slices.SortFunc(containers, func(a, b *container) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range containers {
		r.addContainer(c)
	}
	faultPoint("records read")
	r.each(half, func(s *sandbox) error {
		r.cfg.Logger.Info("sandbox was half made: remove it", "sandboxID", s.ID)
		r.undo(s)
		return nil
	})
	faultPoint("half made sandboxes gone")
	r.each(keep, r.takeUp)
	faultPoint("sandboxes taken up")
	return r.reap()
}

func (r *Runtime) each(list []*sandbox, f func(*sandbox) error) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, recoverAtOnce)
	for _, s := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			// One pod that cannot be repaired must not keep the others down.
			if err := f(s); err != nil {
				r.cfg.Logger.Error(err, "repair sandbox", "sandboxID", s.ID)
			}
		})
	}
	wg.Wait()
}

// loadSandbox reads a sandbox's directory and tells whether it counts.
func (r *Runtime) loadSandbox(id string) (*sandbox, bool) {
	dir := filepath.Join(r.cfg.Root, sandboxesDir, id)
	var rec sandboxRecord
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil || rec.ID != id {
		// Without a record nothing was made but files.
		return r.newSandbox(sandboxRecord{
			ID: id, Spec: runtimeiface.SandboxSpec{Network: runtimeiface.NamespaceHost}, CgroupParent: r.cfg.CgroupRoot,
		}), false
	}
	s := r.newSandbox(rec)
	return s, exists(dir, shim.CommittedName)
}

// loadContainers reads the containers that were made whole.
func (r *Runtime) loadContainers(s *sandbox) []*container {
	var out []*container
	groups := groupsOf(s) // first: all of a group count, or none
	for _, id := range r.containerDirs(s) {
		dir := containerDir(s, id)
		var rec containerRecord
		data, err := os.ReadFile(filepath.Join(dir, recordFile))
		if err == nil {
			err = json.Unmarshal(data, &rec)
		}
		if err != nil || rec.ID != id || !exists(dir, shim.CreatedName) || rec.Group != "" && !groups[rec.Group] {
			continue
		}
		c := newContainer(s, rec)
		// The shim goes on meanwhile: what has an exit by now had its start before.
		e, err := readExit(dir)
		c.started = readStarted(dir)
		if err == nil {
			c.setExited(e)
		} else {
			c.started = c.started.Round(0)
		}
		out = append(out, c)
	}
	return out
}

// groupsOf are the groups of containers that were made whole.
func groupsOf(s *sandbox) map[string]bool {
	groups := map[string]bool{}
	entries, _ := os.ReadDir(filepath.Join(s.dir, shim.GroupsDir))
	for _, e := range entries {
		groups[e.Name()] = true
	}
	return groups
}

// takeUp connects to the shim of a whole sandbox, or finishes its end.
func (r *Runtime) takeUp(s *sandbox) error {
	stopped := exists(s.dir, stoppedFile)
	if !stopped && shimAlive(s.dir) {
		r.net.mark(&s.sandboxRecord)
		r.mu.Lock()
		s.ready = true
		r.mu.Unlock()
		faultPoint("shim found alive")
		err := r.reconnect(s)
		if err == nil {
			return r.dropHalfMade(s)
		}
		r.cfg.Logger.Error(err, "connect to shim", "sandboxID", s.ID)
		r.net.release(s.ID, s.IPs)
	}
	if !stopped {
		r.cfg.Logger.Info("shim is dead: sandbox ends", "podUID", s.spec.UID, "sandboxID", s.ID)
		if err := shim.WriteFile(s.dir, stoppedFile, nil); err != nil {
			return err
		}
	}
	faultPoint("sandbox found stopped")
	err := r.endSandbox(s)
	faultPoint("exits found")
	r.markUnknown(s)
	r.mu.Lock()
	s.ready, s.IPs = false, nil
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.dropHalfMade(s)
}

// dropHalfMade removes containers whose creation was cut off.
func (r *Runtime) dropHalfMade(s *sandbox) error {
	for _, id := range r.containerDirs(s) {
		if r.container(id) != nil {
			continue
		}
		if err := r.forgetInShim(s, id); err != nil {
			return fmt.Errorf("half made container %s: %w", id, err)
		}
		faultPoint("half made container forgotten")
		if err := r.wipeContainer(s, id); err != nil {
			return fmt.Errorf("half made container %s: %w", id, err)
		}
	}
	return nil
}

// reap removes what belongs to nobody: roots, interfaces and runtime state of
// unknown sandboxes and containers. Records are written first, so there should
// be none.
func (r *Runtime) reap() error {
	roots, err := r.store.Reap(func(id string) bool { return r.container(ownerOf(id)) != nil })
	if err != nil {
		return fmt.Errorf("remove roots of unknown containers: %w", err)
	}
	faultPoint("roots reaped")
	attached, err := r.net.settle(func(id string) bool { return r.sandbox(id) != nil })
	if err != nil {
		return err
	}
	faultPoint("interfaces reaped")
	states, err := r.reapStates()
	if err != nil {
		return err
	}
	faultPoint("states reaped")
	if len(roots)+attached+states > 0 {
		r.cfg.Logger.Info("removed leftovers", "roots", len(roots), "interfaces", attached, "runtimeStates", states)
	}
	return nil
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}
