package oci

import "fmt"

// undo destroys a sandbox that was half made. What cannot be undone now, such as
// what a plug-in refuses to take back, is tried again before the same pod's next
// sandbox is made: so failures do not heap up.
func (r *Runtime) undo(s *sandbox) {
	if err := r.destroySandbox(s); err != nil {
		r.cfg.Logger.Error(err, "undo sandbox", "sandboxID", s.ID)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.undone[s.spec.UID] = append(r.undone[s.spec.UID], s)
	}
}

// redo is undo again.
func (r *Runtime) redo(podUID string) error {
	r.mu.Lock()
	list := r.undone[podUID]
	delete(r.undone, podUID)
	r.mu.Unlock()
	for i, s := range list {
		if err := r.destroySandbox(s); err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.undone[podUID] = append(r.undone[podUID], list[i:]...)
			return fmt.Errorf("undo what was half made before: %w", err)
		}
	}
	return nil
}
