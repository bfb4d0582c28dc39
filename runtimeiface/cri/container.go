package cri

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// CreateContainer has the runtime create a container, if there is none of this
// identity in the sandbox.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, spec runtimeiface.ContainerSpec) (string, error) {
	act := fmt.Sprintf("create container %s in sandbox %s", spec.Name, sandboxID)
	config, err := containerConfig(spec)
	if err != nil {
		return "", fmt.Errorf("%s: %w", act, err)
	}
	spec = outliving(spec)
	return finish(ctx, r, act, r.cfg.Timeout, func(ctx context.Context) (string, error) {
		id, _, err := r.createOne(ctx, sandboxID, spec, config)
		if err != nil {
			return "", fmt.Errorf("%s: %w", act, err)
		}
		return id, nil
	})
}

// outliving copies what createRequest looks at: the call may outlive the
// caller's interest in its maps.
func outliving(spec runtimeiface.ContainerSpec) runtimeiface.ContainerSpec {
	spec.Labels, spec.Annotations = maps.Clone(spec.Labels), maps.Clone(spec.Annotations)
	return spec
}

// createOne tells whether it made the container.
func (r *Runtime) createOne(ctx context.Context, sandboxID string, spec runtimeiface.ContainerSpec, config *api.ContainerConfig) (id string, made bool, err error) {
	identity := "container/" + sandboxID + "/" + spec.Name + "/" + strconv.FormatUint(uint64(spec.Attempt), 10)
	unlock, err := r.locks.lock(ctx, identity)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	sandbox, ok := r.known.madeHere(sandboxID)
	if !ok {
		if sandbox, err = r.sandbox(ctx, sandboxID); err != nil {
			return "", false, err
		}
	}
	request, err := r.createRequest(ctx, sandbox, spec, config)
	if err != nil {
		return "", false, err
	}
	if slices.ContainsFunc(config.Mounts, func(m *api.Mount) bool { return m.Image != nil }) {
		// containerd v2.4.2 mounts an image once a sandbox, and does not guard that
		// against another container that wants the same.
		unlock, err := r.locks.lock(ctx, "images/"+sandboxID)
		if err != nil {
			return "", false, err
		}
		defer unlock()
	}
	return r.create(ctx, request)
}

// createRequest adds to config what depends on the sandbox.
func (r *Runtime) createRequest(ctx context.Context, sandbox knownSandbox, spec runtimeiface.ContainerSpec, config *api.ContainerConfig) (*api.CreateContainerRequest, error) {
	if spec.Security.Privileged && !sandbox.spec.Privileged {
		return nil, invalid("Security.Privileged", "wants a sandbox that is Privileged")
	}
	pod, err := r.sandboxConfig(sandbox.spec)
	if err != nil {
		return nil, err
	}
	if !sandbox.made {
		pod.Labels, pod.Annotations = sandbox.Labels, sandbox.Annotations
	}
	labels := podLabels(sandbox.spec)
	labels[labelContainerName] = spec.Name
	keep := kept{Image: spec.Image, Stdio: stdio{Stdin: spec.Stdin, TTY: spec.TTY}}
	for _, m := range config.Mounts {
		if m.Image != nil {
			keep.Mounted = append(keep.Mounted, m.Image.Image)
		}
	}
	if config.Labels, config.Annotations, err = marked(labels, spec.Labels, spec.Annotations, keep); err != nil {
		return nil, err
	}
	if err := r.unheard(config); err != nil {
		return nil, err
	}
	if err := r.checkMounts(ctx, sandbox, config); err != nil {
		return nil, err
	}
	if spec.Security.StrictGroups {
		if err := r.strictGroups(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.checkTarget(ctx, sandbox.ID, spec.PIDTarget); err != nil {
		return nil, err
	}
	options := pod.Linux.SecurityContext.NamespaceOptions
	config.Linux.SecurityContext.NamespaceOptions = &api.NamespaceOption{
		Network: options.Network, Ipc: options.Ipc, Pid: options.Pid, TargetId: spec.PIDTarget, UsernsOptions: options.UsernsOptions,
	}
	if spec.PID != "" {
		config.Linux.SecurityContext.NamespaceOptions.Pid = modes[spec.PID]
	}
	if spec.LogPath != "" {
		if pod.LogDirectory == "" {
			return nil, invalid("LogPath", "wants the sandbox's LogDirectory")
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(pod.LogDirectory, spec.LogPath)), 0o755); err != nil {
			return nil, fmt.Errorf("make log directory: %w", err)
		}
	}
	if spec.Security.RunAsGroup != nil && spec.Security.RunAsUser == nil {
		image, err := ask(ctx, r, r.is.ImageStatus, &api.ImageStatusRequest{Image: &api.ImageSpec{Image: spec.Image}})
		if err != nil {
			return nil, translate(ctx, err, "status of image %s", spec.Image)
		}
		if image.Image == nil {
			return nil, fmt.Errorf("image %s: %w", spec.Image, runtimeiface.ErrNotFound)
		}
		config.Linux.SecurityContext.RunAsUsername = image.Image.Username
		if image.Image.Username == "" {
			config.Linux.SecurityContext.RunAsUser = &api.Int64Value{Value: image.Image.Uid.GetValue()}
		}
	}
	return &api.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: config, SandboxConfig: pod}, nil
}

// checkMounts asks for what not every runtime has, and gives each bind the IDs of
// the sandbox's user namespace, so that its files keep their owners.
func (r *Runtime) checkMounts(ctx context.Context, sandbox knownSandbox, config *api.ContainerConfig) error {
	user, err := userNamespace(sandbox.spec.UserNamespace)
	if err != nil {
		return err
	}
	for i, m := range config.Mounts {
		field := fmt.Sprintf("Mounts[%d]", i)
		if m.RecursiveReadOnly {
			err = r.ability(ctx, sandbox.spec.RuntimeHandler, field+".Options", (*api.RuntimeHandlerFeatures).GetRecursiveReadOnlyMounts)
		} else if len(m.MountOptions) > 0 {
			err = r.mountOptions(ctx, field+".Options")
		} else if m.Image != nil {
			if _, err = r.ImageStatus(ctx, m.Image.Image); err != nil {
				err = fmt.Errorf("%s.Source: %w", field, err)
			}
		}
		if err != nil {
			return err
		}
		m.UidMappings, m.GidMappings = user.GetUids(), user.GetGids()
	}
	return nil
}

// checkTarget: a runtime would take a container of another sandbox for invalid.
func (r *Runtime) checkTarget(ctx context.Context, sandboxID, target string) error {
	if target == "" {
		return nil
	}
	c, err := r.status(ctx, target)
	switch {
	case err != nil:
		return fmt.Errorf("PIDTarget: %w", err)
	case c.SandboxID != sandboxID:
		return fmt.Errorf("PIDTarget: container %s is in another sandbox: %w", target, runtimeiface.ErrNotFound)
	case c.State != runtimeiface.ContainerRunning:
		return fmt.Errorf("PIDTarget: container %s is %s: %w", target, c.State, runtimeiface.ErrNotRunning)
	}
	return nil
}

func (r *Runtime) create(ctx context.Context, request *api.CreateContainerRequest) (id string, made bool, err error) {
	for {
		id, err := r.findContainer(ctx, request)
		if err != nil {
			return "", false, translate(ctx, err, "look for it")
		}
		if id != "" {
			return id, false, nil
		}
		response, err := r.rs.CreateContainer(ctx, request)
		switch {
		case err == nil:
			return response.ContainerId, true, nil
		case lost(err):
			if id, _ := r.findContainer(ctx, request); id != "" {
				return id, true, nil
			}
			return "", false, translate(ctx, err, "have it made")
		case reserved(err):
			if err := r.pause(ctx, tryAgain); err != nil {
				return "", false, fmt.Errorf("its name is in use: %w", err)
			}
		default:
			if s, again := r.sandbox(ctx, request.PodSandboxId); again == nil && s.State != runtimeiface.SandboxReady {
				return "", false, fmt.Errorf("the sandbox: %w", runtimeiface.ErrNotRunning)
			}
			return "", false, createError(ctx, err, request)
		}
	}
}

// createError finds in a runtime's text that a directory of an image is missing.
func createError(ctx context.Context, err error, request *api.CreateContainerRequest) error {
	text := status.Convert(err).Message()
	for i, m := range request.Config.Mounts {
		if m.ImageSubPath != "" && strings.Contains(text, m.ImageSubPath) &&
			(strings.Contains(text, "image subpath") || strings.Contains(text, "sub path")) {
			return invalid(fmt.Sprintf("Mounts[%d].Options", i), "name a subpath that cannot be had: "+text)
		}
	}
	return translate(ctx, err, "have it made")
}

func (r *Runtime) findContainer(ctx context.Context, request *api.CreateContainerRequest) (string, error) {
	list, err := ask(ctx, r, r.rs.ListContainers, &api.ListContainersRequest{
		Filter: &api.ContainerFilter{PodSandboxId: request.PodSandboxId},
	})
	if err != nil {
		return "", err
	}
	for _, c := range list.Containers {
		if c.PodSandboxId == request.PodSandboxId && c.Metadata.GetName() == request.Config.Metadata.Name &&
			c.Metadata.GetAttempt() == request.Config.Metadata.Attempt {
			return c.Id, nil
		}
	}
	return "", nil
}

// StartContainer starts a created container.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	return finishErr(ctx, r, "start container "+id, r.cfg.Timeout, func(ctx context.Context) error {
		return r.startOne(ctx, id)
	})
}

func (r *Runtime) startOne(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	defer unlock()
	if _, stopped := r.known.stoppedAt(id); stopped {
		return fmt.Errorf("start container %s: it was stopped: %w", id, runtimeiface.ErrNotRunning)
	}
	began := time.Now()
	if _, err = r.rs.StartContainer(ctx, &api.StartContainerRequest{ContainerId: id}); err == nil {
		r.known.start(id)
		return nil
	}
	return r.notStarted(ctx, id, began, err)
}

// notStarted finds out what a failed start means.
func (r *Runtime) notStarted(ctx context.Context, id string, began time.Time, err error) error {
	c, again := r.status(ctx, id)
	switch {
	case isNotFound(err) && again != nil, again != nil:
		return translate(ctx, err, "start container %s", id)
	case c.State == runtimeiface.ContainerRunning:
		return nil
	case c.State == runtimeiface.ContainerExited && c.FinishedAt.Before(began):
		return fmt.Errorf("start container %s: it has exited: %w", id, runtimeiface.ErrNotRunning)
	case c.State == runtimeiface.ContainerExited && c.Reason != runtimeiface.ReasonStartError && lost(err):
		return nil // it ran, and is over
	}
	return translate(ctx, err, "start container %s", id)
}

// StopContainer has the runtime signal and then kill the container.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if id == "" {
		return ctx.Err()
	}
	seconds := int64(math.Ceil(max(grace, 0).Seconds()))
	limit := time.Duration(min(seconds, int64(1<<31)))*time.Second + r.cfg.Timeout
	return finishErr(ctx, r, "stop container "+id, limit, func(ctx context.Context) error {
		return r.stopOne(ctx, id, seconds)
	})
}

func (r *Runtime) stopOne(ctx context.Context, id string, seconds int64) error {
	_, err := r.rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: id, Timeout: seconds})
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return translate(ctx, err, "stop container %s", id)
	}
	if r.known.hasStarted(id) {
		return nil
	}
	return r.stopCreated(ctx, id)
}

// stopCreated: for a CRI a container that never ran cannot be stopped.
func (r *Runtime) stopCreated(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	defer unlock()
	response, err := ask(ctx, r, r.rs.ContainerStatus, &api.ContainerStatusRequest{ContainerId: id})
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return translate(ctx, err, "stop container %s", id)
	case response.Status.GetState() == api.ContainerState_CONTAINER_CREATED:
		r.known.stop(id)
		r.events.stopped(id)
	case response.Status.GetState() == api.ContainerState_CONTAINER_RUNNING:
		// A start was under way when the runtime looked.
		_, err = r.rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: id})
		if !isNotFound(err) {
			return translate(ctx, err, "stop container %s", id)
		}
	}
	return nil
}

// RemoveContainer has the runtime kill and remove the container.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if id == "" {
		return ctx.Err()
	}
	return finishErr(ctx, r, "remove container "+id, r.cfg.Timeout, func(ctx context.Context) error {
		return r.removeOne(ctx, id)
	})
}

func (r *Runtime) removeOne(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	defer unlock()
	// The CRI wants it done by force; not all runtimes do.
	if c, ok := r.known.container(id); !ok || c.State != runtimeiface.ContainerExited {
		_, err = r.rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: id})
		if err != nil && !isNotFound(err) {
			return translate(ctx, err, "remove container %s", id)
		}
	}
	_, err = r.rs.RemoveContainer(ctx, &api.RemoveContainerRequest{ContainerId: id})
	if err != nil && !isNotFound(err) {
		return translate(ctx, err, "remove container %s", id)
	}
	r.known.dropContainer(id)
	return nil
}

// ReopenLog has the runtime open the log file anew.
func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	return finishErr(ctx, r, "reopen log of container "+id, r.cfg.Timeout, func(ctx context.Context) error {
		if r.name == dockerd {
			return fmt.Errorf("reopen log of container %s: %w: Docker keeps and rotates it", id, runtimeiface.ErrNotSupported)
		}
		_, err := r.rs.ReopenContainerLog(ctx, &api.ReopenContainerLogRequest{ContainerId: id})
		if err == nil {
			return nil
		}
		return r.notRunning(ctx, id, err, "reopen log of container %s", id)
	})
}

// notRunning is ErrNotRunning, if that is why a call failed, whatever the text:
// for CRI-O v1.37 a container that does not run is not found.
func (r *Runtime) notRunning(ctx context.Context, id string, err error, act string, args ...any) error {
	if lost(err) || ctx.Err() != nil {
		return translate(ctx, err, act, args...)
	}
	c, again := r.status(ctx, id)
	switch {
	case isNotFound(again):
		return translate(ctx, status.Error(codes.NotFound, status.Convert(err).Message()), act, args...)
	case again == nil && c.State != runtimeiface.ContainerRunning:
		return fmt.Errorf(act+": %w: %s", append(args, runtimeiface.ErrNotRunning, status.Convert(err).Message())...)
	}
	return translate(ctx, err, act, args...)
}
