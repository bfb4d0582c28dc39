package cri

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// tryAgain is between two tries for a name that is still reserved.
const tryAgain = 50 * time.Millisecond

// RunSandbox has the runtime make a sandbox, if there is none of this identity.
// One that is there and not ready is ErrInUse: the next attempt may run.
func (r *Runtime) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	act := fmt.Sprintf("run sandbox of %s/%s", spec.Namespace, spec.Name)
	if err := spec.Validate(); err != nil {
		return "", fmt.Errorf("%s: %w", act, err)
	}
	spec = spec.Clone()
	config, err := r.sandboxConfig(spec)
	if err != nil {
		return "", fmt.Errorf("%s: %w", act, err)
	}
	return finish(ctx, r, act, 2*r.cfg.Timeout, func(ctx context.Context) (string, error) {
		unlock, err := r.locks.lock(ctx, "sandbox/"+spec.UID+"/"+strconv.FormatUint(uint64(spec.Attempt), 10))
		if err != nil {
			return "", fmt.Errorf("%s: %w", act, err)
		}
		defer unlock()
		if spec.UserNamespace != nil {
			// An older runtime would run the pod in the node's.
			if err := r.ability(ctx, spec.RuntimeHandler, "UserNamespace", (*api.RuntimeHandlerFeatures).GetUserNamespaces); err != nil {
				return "", fmt.Errorf("%s: %w", act, err)
			}
		}
		id, err := r.runSandbox(ctx, act, config, spec)
		if err == nil {
			return id, nil
		}
		if spec.RuntimeHandler == "" {
			return id, err
		}
		if known, asked := r.hasHandler(ctx, spec.RuntimeHandler); asked && !known {
			return "", fmt.Errorf("%s: %w", act, notSupported("RuntimeHandler", "is not configured: "+spec.RuntimeHandler))
		}
		return id, err
	})
}

func (r *Runtime) runSandbox(ctx context.Context, act string, config *api.PodSandboxConfig, kept runtimeiface.SandboxSpec) (string, error) {
	if dir := config.LogDirectory; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("%s: make log directory: %w", act, err)
		}
	}
	for {
		id, err := r.findSandbox(ctx, act, config.Metadata)
		if id != "" || err != nil {
			return id, err
		}
		response, err := r.rs.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: config, RuntimeHandler: kept.RuntimeHandler})
		switch {
		case err == nil:
			r.known.run(response.PodSandboxId, kept)
			return response.PodSandboxId, nil
		case lost(err):
			if id, _ := r.findSandbox(ctx, act, config.Metadata); id != "" {
				return id, nil
			}
			return "", translate(ctx, err, "%s", act)
		case reserved(err):
			if err := r.pause(ctx, tryAgain); err != nil {
				return "", fmt.Errorf("%s: its name is in use: %w", act, err)
			}
		default:
			r.removeRest(ctx, config.Metadata)
			return "", translate(ctx, err, "%s", act)
		}
	}
}

// findSandbox looks for a ready sandbox of this identity.
func (r *Runtime) findSandbox(ctx context.Context, act string, m *api.PodSandboxMetadata) (string, error) {
	found, err := r.sandboxOf(ctx, m)
	switch {
	case err != nil:
		return "", translate(ctx, err, "%s: look for it", act)
	case found == nil:
		return "", nil
	case found.State != api.PodSandboxState_SANDBOX_READY:
		return "", fmt.Errorf("%s: %w: sandbox %s, not ready, is attempt %d of this pod", act, runtimeiface.ErrInUse, found.Id, m.Attempt)
	}
	return found.Id, nil
}

func (r *Runtime) sandboxOf(ctx context.Context, m *api.PodSandboxMetadata) (*api.PodSandbox, error) {
	list, err := ask(ctx, r, r.rs.ListPodSandbox, &api.ListPodSandboxRequest{
		Filter: &api.PodSandboxFilter{LabelSelector: map[string]string{labelPodUID: m.Uid}},
	})
	if err != nil {
		return nil, err
	}
	var found *api.PodSandbox
	for _, s := range list.Items {
		if s.Metadata.GetUid() != m.Uid || s.Metadata.GetAttempt() != m.Attempt {
			continue
		}
		if found == nil || s.State == api.PodSandboxState_SANDBOX_READY {
			found = s
		}
	}
	return found, nil
}

// removeRest takes away what the runtime could not, after a run that failed.
func (r *Runtime) removeRest(ctx context.Context, m *api.PodSandboxMetadata) {
	rest, err := r.sandboxOf(ctx, m)
	if err == nil && rest != nil && rest.State != api.PodSandboxState_SANDBOX_READY {
		_, err = r.rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: rest.Id})
	}
	if err != nil {
		r.cfg.Logger.Error(err, "remove the rest of a sandbox that did not run", "pod", m.Namespace+"/"+m.Name, "podUID", m.Uid)
	}
}

// hasHandler asks whether the runtime has a handler; not all can tell.
func (r *Runtime) hasHandler(ctx context.Context, name string) (known, asked bool) {
	s, err := ask(ctx, r, r.rs.Status, &api.StatusRequest{})
	if err != nil || len(s.RuntimeHandlers) == 0 {
		return false, false
	}
	return slices.ContainsFunc(s.RuntimeHandlers, func(h *api.RuntimeHandler) bool { return h.Name == name }), true
}

// StopSandbox ends what runs in the sandbox, and its network.
func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	if id == "" {
		return ctx.Err()
	}
	return finishErr(ctx, r, "stop sandbox "+id, r.cfg.Timeout, func(ctx context.Context) error {
		return r.stopSandbox(ctx, id)
	})
}

func (r *Runtime) stopSandbox(ctx context.Context, id string) error {
	_, err := r.rs.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: id})
	r.known.dropSandbox(id)
	if err != nil && !isNotFound(err) {
		return translate(ctx, err, "stop sandbox %s", id)
	}
	return nil
}

// RemoveSandbox stops the sandbox, as the CRI wants it, and removes it.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if id == "" {
		return ctx.Err()
	}
	return finishErr(ctx, r, "remove sandbox "+id, 2*r.cfg.Timeout, func(ctx context.Context) error {
		unlock, err := r.locks.lock(ctx, "remove/"+id)
		if err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
		defer unlock()
		if err := r.stopSandbox(ctx, id); err != nil {
			return err
		}
		_, err = r.rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: id})
		r.known.forgetSandbox(id)
		if err != nil && !isNotFound(err) {
			return translate(ctx, err, "remove sandbox %s", id)
		}
		return nil
	})
}

// SandboxStatus asks the runtime for one sandbox.
func (r *Runtime) SandboxStatus(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
	s, err := r.sandbox(ctx, id)
	return s.copy(), err
}

func (r *Runtime) sandbox(ctx context.Context, id string) (knownSandbox, error) {
	if id == "" {
		return knownSandbox{}, fmt.Errorf("status of a sandbox without an ID: %w", runtimeiface.ErrNotFound)
	}
	response, err := ask(ctx, r, r.rs.PodSandboxStatus, &api.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err == nil && response.Status.GetId() != id {
		err = status.Error(codes.NotFound, "that is part of an ID") // some take it for the whole
	}
	if err != nil {
		if isNotFound(err) {
			r.known.dropSandbox(id)
		}
		return knownSandbox{}, translate(ctx, err, "status of sandbox %s", id)
	}
	s := toSandbox(response)
	r.known.keepSandbox(s)
	return s, nil
}

// ListSandboxes lists, and asks for the status of those that are new or changed.
func (r *Runtime) ListSandboxes(ctx context.Context, filter runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	f := &api.PodSandboxFilter{Id: filter.ID, LabelSelector: filter.Labels}
	switch filter.State {
	case runtimeiface.SandboxReady:
		f.State = &api.PodSandboxStateValue{State: api.PodSandboxState_SANDBOX_READY}
	case runtimeiface.SandboxNotReady:
		f.State = &api.PodSandboxStateValue{State: api.PodSandboxState_SANDBOX_NOTREADY}
	}
	response, err := ask(ctx, r, r.rs.ListPodSandbox, &api.ListPodSandboxRequest{Filter: f})
	if err != nil {
		return nil, translate(ctx, err, "list sandboxes")
	}
	var list []runtimeiface.Sandbox
	for _, item := range response.Items {
		if filter.ID != "" && item.Id != filter.ID || filter.UID != "" && item.Metadata.GetUid() != filter.UID {
			continue
		}
		s, ok := r.known.sandbox(item.Id)
		if !ok || s.State != sandboxState(item.State) {
			if s, err = r.sandbox(ctx, item.Id); isNotFound(err) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("list sandboxes: %w", err)
			}
		}
		if filter.State == "" || s.State == filter.State {
			list = append(list, s.copy())
		}
	}
	slices.SortStableFunc(list, func(a, b runtimeiface.Sandbox) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}
