package cri

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ContainerStatus asks the runtime for one container.
func (r *Runtime) ContainerStatus(ctx context.Context, id string) (runtimeiface.Container, error) {
	return r.status(ctx, id)
}

func (r *Runtime) status(ctx context.Context, id string) (runtimeiface.Container, error) {
	return r.statusIn(ctx, id, "")
}

// statusIn takes the sandbox's ID if it is known: not all runtimes tell it.
func (r *Runtime) statusIn(ctx context.Context, id, sandboxID string) (runtimeiface.Container, error) {
	if id == "" {
		return runtimeiface.Container{}, fmt.Errorf("status of a container without an ID: %w", runtimeiface.ErrNotFound)
	}
	before, known := r.known.container(id)
	// PID and cgroup cost much more to ask for than the rest, and stay.
	lean := known && before.State == runtimeiface.ContainerRunning && before.PID != 0
	response, err := ask(ctx, r, r.rs.ContainerStatus, &api.ContainerStatusRequest{ContainerId: id, Verbose: !lean})
	if err == nil && response.Status.GetId() != id {
		err = status.Error(codes.NotFound, "that is part of an ID") // some take it for the whole
	}
	if err != nil {
		if isNotFound(err) {
			r.known.dropContainer(id)
		}
		return runtimeiface.Container{}, translate(ctx, err, "status of container %s", id)
	}
	verbose := parseInfo(response.Info)
	c := toContainer(response.Status, verbose)
	c.SandboxID = cmp.Or(c.SandboxID, sandboxID)
	if known {
		c.SandboxID, c.Cgroup = cmp.Or(c.SandboxID, before.SandboxID), cmp.Or(c.Cgroup, before.Cgroup)
		if lean && c.State == runtimeiface.ContainerRunning {
			c.PID = before.PID
		}
	}
	if c.State != runtimeiface.ContainerRunning {
		c.PID = 0
	}
	if c.Cgroup == "" && c.PID != 0 {
		c.Cgroup = cgroupOf(c.PID)
	}
	if err := r.complete(ctx, &c); err != nil {
		return runtimeiface.Container{}, err
	}
	r.unseen(ctx, &c, before)
	if c.State != runtimeiface.ContainerUnknown {
		r.known.keepContainer(c)
	}
	if err := r.neverRan(ctx, &c); err != nil {
		return runtimeiface.Container{}, err
	}
	return c, nil
}

// complete asks for what the status lacks: the sandbox, and an image's ID where
// the runtime told another reference.
func (r *Runtime) complete(ctx context.Context, c *runtimeiface.Container) error {
	if c.SandboxID == "" {
		list, err := ask(ctx, r, r.rs.ListContainers, &api.ListContainersRequest{Filter: &api.ContainerFilter{Id: c.ID}})
		if err != nil {
			return translate(ctx, err, "sandbox of container %s", c.ID)
		}
		for _, item := range list.Containers {
			if item.Id == c.ID {
				c.SandboxID, c.ImageID = item.PodSandboxId, cmp.Or(c.ImageID, item.ImageId)
			}
		}
	}
	if !strings.HasPrefix(c.ImageID, "sha256:") && c.ImageID != "" {
		image, err := ask(ctx, r, r.is.ImageStatus, &api.ImageStatusRequest{Image: &api.ImageSpec{Image: c.ImageID}})
		if err == nil && image.Image != nil {
			c.ImageID = imageID(image.Image.Id)
		}
	}
	return nil
}

// unseen finds exits that containerd v2.4.2 did not see because its shim was
// killed: it tells 255 as if the process had said so (unknownExitCode in
// internal/cri/server/events.go). The shim is the sandbox's as well, which is then
// not ready although nobody stopped it: its network is there. What was found
// before the sandbox was stopped stays.
func (r *Runtime) unseen(ctx context.Context, c *runtimeiface.Container, before runtimeiface.Container) {
	if c.State != runtimeiface.ContainerExited || c.ExitCode != 255 || c.Reason != runtimeiface.ReasonError {
		return
	}
	if before.State == runtimeiface.ContainerExited {
		c.ExitCode, c.Reason = before.ExitCode, before.Reason
		return
	}
	s, err := ask(ctx, r, r.rs.PodSandboxStatus, &api.PodSandboxStatusRequest{PodSandboxId: c.SandboxID, Verbose: true})
	if err != nil || s.Status.GetState() == api.PodSandboxState_SANDBOX_READY ||
		s.Status.GetLinux().GetNamespaces().GetOptions().GetNetwork() == api.NamespaceMode_NODE {
		return
	}
	if gone := parseInfo(s.Info).NetworkGone; gone != nil && !*gone {
		c.ExitCode, c.Reason = runtimeiface.ExitCodeUnknown, runtimeiface.ReasonUnknown
	}
}

// neverRan makes Exited of a Created container that cannot run any more.
func (r *Runtime) neverRan(ctx context.Context, c *runtimeiface.Container) error {
	if c.State != runtimeiface.ContainerCreated {
		return nil
	}
	finished, stopped := r.known.stoppedAt(c.ID)
	if !stopped {
		s, err := ask(ctx, r, r.rs.PodSandboxStatus, &api.PodSandboxStatusRequest{PodSandboxId: c.SandboxID})
		switch {
		case isNotFound(err), err == nil && s.Status.GetState() != api.PodSandboxState_SANDBOX_READY:
			finished = c.CreatedAt // no one knows when; it stays the same
		case err != nil:
			return translate(ctx, err, "status of container %s", c.ID)
		default:
			return nil
		}
	}
	c.State, c.FinishedAt = runtimeiface.ContainerExited, finished
	c.ExitCode, c.Reason, c.Message = runtimeiface.ExitCodeUnknown, runtimeiface.ReasonError, "stopped before it started"
	return nil
}

// ListContainers lists, and asks for the status of those that are new or changed.
func (r *Runtime) ListContainers(ctx context.Context, filter runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
	// Not by state: a CRI's Created may be Exited here.
	response, err := ask(ctx, r, r.rs.ListContainers, &api.ListContainersRequest{Filter: &api.ContainerFilter{
		Id: filter.ID, PodSandboxId: filter.SandboxID, LabelSelector: filter.Labels,
	}})
	if err != nil {
		return nil, translate(ctx, err, "list containers")
	}
	var list []runtimeiface.Container
	for _, item := range response.Containers {
		if filter.ID != "" && item.Id != filter.ID || filter.SandboxID != "" && item.PodSandboxId != filter.SandboxID {
			continue
		}
		c, err := r.listed(ctx, item)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		if filter.State == "" || c.State == filter.State {
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b runtimeiface.Container) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

func (r *Runtime) listed(ctx context.Context, item *api.Container) (runtimeiface.Container, error) {
	state := containerStates[item.State]
	c, ok := r.known.container(item.Id)
	if !ok || c.State != state || state == runtimeiface.ContainerUnknown ||
		state == runtimeiface.ContainerExited && time.Since(c.FinishedAt) < settled {
		return r.statusIn(ctx, item.Id, item.PodSandboxId)
	}
	return c, r.neverRan(ctx, &c)
}

var containerStates = map[api.ContainerState]runtimeiface.ContainerState{
	api.ContainerState_CONTAINER_CREATED: runtimeiface.ContainerCreated, api.ContainerState_CONTAINER_RUNNING: runtimeiface.ContainerRunning,
	api.ContainerState_CONTAINER_EXITED: runtimeiface.ContainerExited, api.ContainerState_CONTAINER_UNKNOWN: runtimeiface.ContainerUnknown,
}

func toContainer(in *api.ContainerStatus, verbose info) runtimeiface.Container {
	labels, annotations, k, _ := unmarked(in.Labels, in.Annotations)
	c := runtimeiface.Container{
		ID: in.Id, SandboxID: verbose.SandboxID, Name: in.Metadata.GetName(), Attempt: in.Metadata.GetAttempt(),
		Labels: labels, Annotations: annotations, State: containerStates[in.State],
		Image: cmp.Or(k.Image, in.Image.GetImage()), ImageID: imageID(cmp.Or(in.ImageId, in.ImageRef)),
		CreatedAt: at(in.CreatedAt), StartedAt: at(in.StartedAt), LogPath: in.LogPath,
		PID: verbose.PID, Cgroup: cgroupPath(verbose.RuntimeSpec.Linux.CgroupsPath),
	}
	if strings.HasPrefix(k.Image, "sha256:") {
		c.ImageID = k.Image
	}
	if c.LogPath == "/dev/null" {
		c.LogPath = ""
	}
	if c.State == runtimeiface.ContainerExited {
		c.FinishedAt, c.ExitCode, c.Reason, c.Message = at(in.FinishedAt), in.ExitCode, in.Reason, in.Message
		c.ExitCode, c.Reason = exit(in.ExitCode, in.Reason)
	}
	return c
}

// exit gives the reasons of runtimeiface for those of runtimes.
func exit(code int32, reason string) (int32, string) {
	switch reason {
	case runtimeiface.ReasonOOMKilled, runtimeiface.ReasonStartError:
		return code, reason
	case "ContainerCannotRun": // cri-dockerd
		return code, runtimeiface.ReasonStartError
	case "Unknown", runtimeiface.ReasonUnknown: // containerd: with 255
		return runtimeiface.ExitCodeUnknown, runtimeiface.ReasonUnknown
	}
	switch {
	case code < 0: // CRI-O, for an exit that nobody saw
		return runtimeiface.ExitCodeUnknown, runtimeiface.ReasonUnknown
	case code == 0:
		return 0, runtimeiface.ReasonCompleted
	}
	return code, runtimeiface.ReasonError
}

func imageID(id string) string {
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" { // CRI-O
		return "sha256:" + id
	}
	return id
}

// cgroupPath reads a path, or systemd's
//
//	kubepods-burstable-pod1.slice:cri-containerd:4f2
func cgroupPath(text string) string {
	if strings.HasPrefix(text, "/") {
		return path.Clean(text)
	}
	parts := strings.Split(text, ":")
	if len(parts) != 3 || !strings.HasSuffix(parts[0], ".slice") || strings.Contains(text, "/") {
		return ""
	}
	name, out, prefix := strings.TrimSuffix(parts[0], ".slice"), "/", ""
	for _, p := range strings.Split(name, "-") {
		if p == "" {
			continue
		}
		prefix += p
		out = path.Join(out, prefix+".slice")
		prefix += "-"
	}
	return path.Join(out, parts[1]+"-"+parts[2]+".scope")
}

// cgroupOf looks at the process: the first hierarchy that is not the root.
func cgroupOf(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(parts) == 3 && parts[2] != "/" {
			return parts[2]
		}
	}
	return ""
}
