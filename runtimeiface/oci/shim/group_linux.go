package shim

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// runError is why a group does not run, and because of which container.
type runError struct {
	cause error
	id    string
	made  bool // the containers are there
}

func (e *runError) fields() []string {
	fields := []string{e.cause.Error(), e.id}
	if e.made {
		fields = append(fields, RunFailed)
	}
	return fields
}

// runGroup makes containers, all at once, then starts them and those that are
// there. Until all are made no program runs and none counts: whoever looks at
// the disk goes by the group's mark.
func (s *server) runGroup(req RunRequest) *runError {
	var list []*container
	defer func() {
		for _, c := range list {
			c.ops.Unlock()
		}
	}()
	for _, r := range req.Create {
		c, err := s.enlist(r)
		if err != nil {
			s.unmakeAll(list)
			return &runError{cause: err, id: r.ID}
		}
		list = append(list, c)
	}
	if failed := each(list, func(c *container) error {
		var err error
		if c.log, err = openLog(c.LogDir, c.LogPath); err == nil {
			err = s.make(c)
		}
		if err == nil {
			c.lasting, err = mark(c.dir, CreatedName)
		}
		if err == nil {
			err = c.lasting()
		}
		return err
	}); failed != nil {
		s.unmakeAll(list)
		return failed
	}
	faultPoint("group made")
	lasting, err := s.markGroup(req.Group, len(list))
	if err != nil {
		s.unmakeAll(list)
		return &runError{cause: err}
	}
	faultPoint("group marked")
	for _, c := range list {
		s.tell(Message{Op: EventCreate, Fields: []string{c.ID, strconv.Itoa(c.pid)}})
	}
	if err := lasting(); err != nil {
		err = errors.New("mark of the containers: " + err.Error())
		return s.stopGroup(list, nil, &runError{cause: err, made: true})
	}
	faultPoint("group lasting")
	return s.startGroup(list, req.Start)
}

// startGroup starts containers that are just made, and others.
func (s *server) startGroup(list []*container, others []string) *runError {
	all := slices.Clone(list)
	for _, id := range others {
		if c := s.find(id); c != nil {
			all = append(all, c)
		}
	}
	// Those of list are locked.
	locked := func(c *container) func() {
		if slices.Contains(list, c) {
			return func() {}
		}
		c.ops.Lock()
		return c.ops.Unlock
	}
	failed := each(all, func(c *container) error {
		defer locked(c)()
		return s.make(c)
	})
	if failed != nil {
		failed.made = true
		return s.stopGroup(list, nil, failed)
	}
	for _, c := range all {
		// What cannot run at all is known by now: nothing runs because of it.
		if c.unable() {
			defer locked(c)()
			_, err := s.startOne(c)
			return s.stopGroup(list, nil, &runError{err, c.ID, true})
		}
	}
	var mu sync.Mutex
	var started []*container
	failed = each(all, func(c *container) error {
		defer locked(c)()
		fresh, err := s.startOne(c)
		if fresh || err != nil {
			mu.Lock()
			started = append(started, c)
			mu.Unlock()
		}
		return err
	})
	faultPoint("group started")
	if failed == nil {
		return nil
	}
	failed.made = true
	return s.stopGroup(list, started, failed)
}

// stopGroup ends containers and waits until that is known.
func (s *server) stopGroup(list, started []*container, why *runError) *runError {
	for _, c := range slices.Concat(list, started) {
		if s.stop(c.ID, 0) == nil {
			<-c.done
		}
	}
	return why
}

func (s *server) unmakeAll(list []*container) {
	for _, c := range list {
		s.unmake(c)
	}
}

// markGroup makes all containers of a group count.
func (s *server) markGroup(name string, size int) (func() error, error) {
	if size == 0 {
		return func() error { return nil }, nil
	}
	dir := filepath.Join(s.dir, GroupsDir)
	err := os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lasting, err := mark(dir, name)
	if err != nil || !made {
		return lasting, err
	}
	return func() error { return errors.Join(lasting(), SyncDir(s.dir)) }, nil
}

// each does f for all containers at the same time, and gives the first failure
// in their order.
func each(list []*container, f func(*container) error) *runError {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return &runError{cause: err, id: list[i].ID}
		}
	}
	return nil
}
