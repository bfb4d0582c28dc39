package oci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// runtimeWait is how long one call of the OCI runtime may take.
const runtimeWait = 2 * time.Minute

const configFile = "config.json" // of an OCI bundle

// containerRecord is on disk before anything of the container is made.
type containerRecord struct {
	ID        string                     `json:"id"`
	Spec      runtimeiface.ContainerSpec `json:"spec"`
	ImageID   string                     `json:"imageID"`
	CreatedAt time.Time                  `json:"createdAt"`
	Cgroup    string                     `json:"cgroup"`
	LogPath   string                     `json:"logPath,omitempty"` // absolute
	// Group it was made with: it counts if that has its mark. "" for none.
	Group string `json:"group,omitempty"`
}

// container: what changes is guarded by Runtime.mu.
type container struct {
	containerRecord
	sandbox *sandbox
	dir     string
	seq     uint64

	hidden   bool // not made yet
	state    runtimeiface.ContainerState
	pid      int
	started  time.Time
	finished time.Time
	exitCode int32
	reason   string
	message  string
	// done is closed when state becomes Exited.
	done chan struct{}
}

func newContainer(s *sandbox, rec containerRecord) *container {
	return &container{
		containerRecord: rec, sandbox: s, dir: containerDir(s, rec.ID),
		state: runtimeiface.ContainerCreated, done: make(chan struct{}),
	}
}

func containerDir(s *sandbox, id string) string { return filepath.Join(s.dir, shim.ContainersDir, id) }

// CreateContainer mounts the root and writes the bundle. The OCI runtime sees it
// only when it is started: what it has against it is an error of that call.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, spec runtimeiface.ContainerSpec) (string, error) {
	spec = spec.Clone()
	type result struct {
		c    *container
		made bool
	}
	res, err := finish(ctx, r, sandboxID, func() (result, error) {
		s := r.sandbox(sandboxID)
		if s == nil {
			return result{}, fmt.Errorf("create container %s: sandbox %q: %w", spec.Name, sandboxID, runtimeiface.ErrNotFound)
		}
		if c := r.findContainer(s, spec.Name, spec.Attempt); c != nil {
			return result{c, false}, nil
		}
		c, err := r.makeContainer(s, spec)
		if err != nil {
			return result{}, fmt.Errorf("create container %s: %w", spec.Name, err)
		}
		return result{c, true}, nil
	}, func(res result) {
		if !res.made {
			return
		}
		if err := r.removeContainer(res.c); err != nil {
			r.cfg.Logger.Error(err, "undo cancelled container", "containerID", res.c.ID)
		}
	})
	if err != nil {
		return "", err
	}
	return res.c.ID, nil
}

func (r *Runtime) makeContainer(s *sandbox, spec runtimeiface.ContainerSpec) (_ *container, err error) {
	client, err := r.clientOf(s)
	if err != nil {
		return nil, err
	}
	p, err := r.plan(s, spec, "")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.abandon(client, p.c)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	if err := r.writeContainer(ctx, client, p); err != nil {
		return nil, err
	}
	faultPoint("container written")
	_, err = client.call(ctx, shim.OpCreate, p.request.Fields()...)
	if lerr := p.lasting(); err == nil && lerr != nil {
		err = fmt.Errorf("record of the container: %w", lerr)
	}
	if err != nil {
		return nil, err
	}
	faultPoint("container created")
	r.markCreated(s, p.c.ID, 0)
	return p.c, nil
}

// plan is a container that is about to be made.
type plan struct {
	c       *container
	image   image.Image
	request shim.CreateRequest
	// lasting waits for the record to be on disk: before anything runs, or is told.
	lasting func() error
}

// plan checks what can be checked and adds the container, hidden.
func (r *Runtime) plan(s *sandbox, spec runtimeiface.ContainerSpec, group string) (*plan, error) {
	if err := checkContainer(s.spec, spec); err != nil {
		return nil, err
	}
	h, ok := r.handlers[s.spec.RuntimeHandler]
	if !ok { // an agent before had it
		return nil, notSupported("RuntimeHandler", "is not configured any more: "+s.spec.RuntimeHandler)
	}
	if err := h.checkMounts(spec.Mounts); err != nil {
		return nil, err
	}
	img, err := r.store.Get(spec.Image)
	if err != nil {
		return nil, translate(err)
	}
	stopSignal, err := parseSignal(cmp.Or(spec.StopSignal, img.Config.StopSignal, "SIGTERM"))
	if err != nil {
		return nil, err
	}
	id := newID()
	c := newContainer(s, containerRecord{
		ID: id, Spec: spec, ImageID: img.ID, CreatedAt: time.Now(), Cgroup: cgroupOf(s, id), Group: group,
	})
	if spec.LogPath != "" {
		c.LogPath = filepath.Join(s.spec.LogDirectory, spec.LogPath)
	}
	c.hidden = true
	r.addContainer(c)
	return &plan{c: c, image: img, request: shim.CreateRequest{
		ID: id, Runtime: h.Path, RuntimeRoot: h.root, RuntimeArgs: runtimeArgs(s, h), ExecCgroup: h.execCgroup,
		LogDir: s.spec.LogDirectory, LogPath: spec.LogPath,
		StopSignal: int(stopSignal), TrackDir: filepath.Join(r.cgroups.track, c.Cgroup), TrackPrefix: r.cgroups.trackPrefix,
		OOMFile: filepath.Join(r.cgroups.memory, c.Cgroup, r.cgroups.oomFile),
		Sweep:   pidMode(s.spec, spec) != runtimeiface.NamespaceContainer,
		Stdin:   spec.Stdin, StdinOnce: spec.StdinOnce, TTY: spec.TTY,
	}}, nil
}

// pidNamespace is the path of the PID namespace that the container joins, or "".
func (r *Runtime) pidNamespace(ctx context.Context, s *sandbox, client *shimClient, spec runtimeiface.ContainerSpec) (string, error) {
	var m shim.Message
	var err error
	switch pidMode(s.spec, spec) {
	case runtimeiface.NamespacePod:
		if m, err = client.call(ctx, shim.OpPause); err != nil {
			return "", fmt.Errorf("make PID namespace of the pod: %w", err)
		}
		return "/proc/" + m.Field(0) + "/ns/pid", nil
	case runtimeiface.NamespaceTarget:
		target := r.container(spec.PIDTarget)
		if target == nil || target.sandbox != s {
			return "", fmt.Errorf("PIDTarget %q: %w in the sandbox", spec.PIDTarget, runtimeiface.ErrNotFound)
		}
		if m, err = client.call(ctx, shim.OpTarget, target.ID); err != nil {
			return "", fmt.Errorf("PIDTarget %s: %w", target.ID, err)
		}
	}
	return m.Field(0), nil
}

// abandon leaves nothing of a container that was not made whole.
func (r *Runtime) abandon(client *shimClient, c *container) {
	if err := r.undoContainer(c.sandbox, client, c.ID); err != nil {
		r.cfg.Logger.Error(err, "undo container", "containerID", c.ID)
	}
	r.dropContainer(c)
}

// undoContainer leaves nothing of what was half made.
func (r *Runtime) undoContainer(s *sandbox, client *shimClient, id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	if _, err := client.call(ctx, shim.OpRemove, id); err != nil {
		// The shim is dead, but what it called may still be at it.
		if err := killStrays([]string{id}); err != nil {
			return err
		}
	}
	faultPoint("half made container out of the shim")
	return errors.Join(r.endContainer(s, id), r.wipeContainer(s, id))
}

// writeContainer puts the record on disk, then makes the root and the bundle.
func (r *Runtime) writeContainer(ctx context.Context, client *shimClient, p *plan) error {
	c := p.c
	data, err := json.Marshal(c.containerRecord)
	if err != nil {
		return err
	}
	pidNS, err := r.pidNamespace(ctx, c.sandbox, client, c.Spec)
	if err != nil {
		return err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return err
	}
	faultPoint("container directory made")
	if p.lasting, err = shim.WriteNew(c.dir, recordFile, data); err != nil {
		return err
	}
	faultPoint("container recorded")
	var userns *os.File
	if c.sandbox.spec.UserNamespace != nil {
		if userns, err = openUserNS(client.pid); err != nil {
			return err
		}
		defer func() { _ = userns.Close() }()
	}
	rootfs, err := r.store.Mount(context.Background(), c.ID, p.image.ID, image.MountOptions{UserNamespace: userns})
	if err != nil {
		return translate(err)
	}
	faultPoint("container root mounted")
	volumes, err := r.mountVolumes(c, userns)
	if err != nil {
		return err
	}
	spec, err := makeSpec(specInput{
		sandbox: c.sandbox, container: c.Spec, image: p.image.Config, rootfs: rootfs, dir: c.dir, cgroup: cgroupsPath(c.sandbox, c.ID),
		shimPID: client.pid, pidNS: pidNS,
		volumes: volumes, userns: userns, seccomp: r.handlers[c.sandbox.spec.RuntimeHandler].seccomp, ownCaps: r.ownCaps,
		hugePages: r.cgroups.hugePages,
	})
	if err != nil {
		return err
	}
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, configFile), data, 0o600)
}

// StartContainer has the shim run the program.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	c := r.container(id)
	if c == nil {
		return fmt.Errorf("start container %q: %w", id, runtimeiface.ErrNotFound)
	}
	return finishErr(ctx, r, c.sandbox.ID, func() error {
		if err := r.startContainer(c); err != nil {
			return fmt.Errorf("start container %s: %w", id, err)
		}
		return nil
	})
}

func (r *Runtime) startContainer(c *container) error {
	switch r.stateOf(c) {
	case runtimeiface.ContainerRunning:
		return nil
	case runtimeiface.ContainerExited:
		return fmt.Errorf("it has exited: %w", runtimeiface.ErrNotRunning)
	}
	client, err := r.clientOf(c.sandbox)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	faultPoint("container before its start")
	// shimEvent does the rest, see OpStart there: an exit may follow at once.
	_, err = client.call(ctx, shim.OpStart, c.ID)
	faultPoint("container start answered")
	return err
}

// StopContainer asks the shim to stop and waits. The shim goes on without us.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	c := r.container(id)
	if c == nil {
		return nil
	}
	faultPoint("container before its stop")
	if err := r.askStop(c, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closing:
		return fmt.Errorf("stop container %s: it goes on: %w", id, errClosed)
	}
}

func (r *Runtime) askStop(c *container, grace time.Duration) error {
	client := r.shimOf(c.sandbox)
	if client == nil || r.stateOf(c) == runtimeiface.ContainerExited {
		return nil // ended, or just being ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), shimWait)
	defer cancel()
	_, err := client.call(ctx, shim.OpStop, c.ID, strconv.FormatInt(int64(max(grace, 0)), 10))
	if errors.Is(err, errShimLost) || errors.Is(err, runtimeiface.ErrNotFound) {
		return nil // mourn ends the container, or it is just being removed
	}
	return err
}

// RemoveContainer kills the container if need be and forgets it.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	c := r.container(id)
	if c == nil {
		return nil
	}
	return finishErr(ctx, r, c.sandbox.ID, func() error {
		if r.container(id) != c {
			return nil
		}
		if err := r.removeContainer(c); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
		return nil
	})
}

// removeContainer is called with the sandbox's lock held.
func (r *Runtime) removeContainer(c *container) error {
	s := c.sandbox
	if err := r.forgetInShim(s, c.ID); err != nil {
		return err
	}
	faultPoint("container out of the shim")
	if err := r.wipeContainer(s, c.ID); err != nil {
		return err
	}
	faultPoint("container wiped")
	r.dropContainer(c)
	r.event(runtimeiface.ContainerRemoved, s, c.ID, time.Now())
	return nil
}

// forgetInShim ends a container and has the OCI runtime forget it.
func (r *Runtime) forgetInShim(s *sandbox, id string) error {
	client := r.shimOf(s)
	if client == nil {
		return r.endContainer(s, id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	if _, err := client.call(ctx, shim.OpRemove, id); err != nil {
		return err
	}
	return r.endContainer(s, id)
}

// endContainer ends what a container has beside files, when no shim keeps it.
func (r *Runtime) endContainer(s *sandbox, id string) error {
	path := cgroupOf(s, id)
	err := r.cgroups.kill(path)
	if h := r.handlerOf(s); len(h.states()[id]) > 0 {
		err = errors.Join(err, h.forget(id))
	}
	faultPoint("container cgroup emptied")
	return errors.Join(err, r.cgroups.remove(path))
}

// wipeContainer removes root and files. The mark goes first: without it the
// container does not count.
func (r *Runtime) wipeContainer(s *sandbox, id string) error {
	dir := containerDir(s, id)
	if err := os.Remove(filepath.Join(dir, shim.CreatedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	faultPoint("container not created")
	if err := errors.Join(r.unmountVolumes(id), r.store.Unmount(id)); err != nil {
		return fmt.Errorf("unmount root: %w", err)
	}
	faultPoint("container root unmounted")
	return os.RemoveAll(dir)
}

// containerDirs gives the IDs of all containers on disk, made whole or not.
func (r *Runtime) containerDirs(s *sandbox) []string {
	var ids []string
	entries, _ := os.ReadDir(filepath.Join(s.dir, shim.ContainersDir))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// ReopenLog has the shim write to a new file.
func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	c, client, err := r.running(ctx, id)
	if err == nil {
		_, err = client.call(ctx, shim.OpReopen, c.ID)
	}
	if err != nil {
		return fmt.Errorf("reopen log of container %q: %w", id, err)
	}
	return nil
}

// running gives a container that runs, and its shim.
func (r *Runtime) running(ctx context.Context, id string) (*container, *shimClient, error) {
	if err := r.ready(ctx); err != nil {
		return nil, nil, err
	}
	c := r.container(id)
	if c == nil {
		return nil, nil, runtimeiface.ErrNotFound
	}
	client := r.shimOf(c.sandbox)
	if client == nil || r.stateOf(c) != runtimeiface.ContainerRunning {
		return nil, nil, runtimeiface.ErrNotRunning
	}
	return c, client, nil
}
