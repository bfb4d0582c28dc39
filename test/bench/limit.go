package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/internal/barepod"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// limit is what a pod costs an agent that does nothing of its own.
type limit struct {
	name  string
	start func(context.Context) (time.Duration, error)
	// crash kills a program, and starts it again once that is told.
	crash func(context.Context) (time.Duration, error)
	// many starts pods, a few at a time, and gives the time of each; may be nil.
	many  func(ctx context.Context, pods int) ([]time.Duration, error)
	close func() error

	starts, crashes, together []time.Duration
}

// openLimits makes one of the CRI's calls and one of each OCI runtime's.
func (s *podStage) openLimits(ctx context.Context, runtimes []string) error {
	conn, err := grpc.NewClient("unix://"+s.daemon.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	s.conn = conn
	pulled, err := api.NewImageServiceClient(conn).PullImage(ctx, &api.PullImageRequest{Image: &api.ImageSpec{Image: s.image}})
	if err != nil {
		return err
	}
	calls := &criLife{rs: api.NewRuntimeServiceClient(conn), image: pulled.ImageRef, logs: filepath.Join(s.dir, "logs"), args: []string{"now", ";", "forever"}}
	s.limits = append(s.limits, &limit{name: "the bare CRI calls", start: calls.untilTold, crash: calls.crash, many: calls.many,
		close: func() error { return nil }})
	if len(runtimes) == 0 {
		return nil
	}
	// One pod stays: it keeps the bridge, and lends its bundle.
	ours, err := newLife(ctx, s.oci, s.image, "")
	if err != nil {
		return err
	}
	kept, app, err := ours.begin(ctx)
	if err != nil {
		return err
	}
	for _, name := range runtimes {
		program, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		plain := &barepod.Pod{Dir: filepath.Join(s.dir, "bare-"+name), Runtime: program, Bridge: oci.DefaultBridge, Cgroup: s.cgroup + "/bare"}
		if err := plain.Take(filepath.Join(s.dir, "oci", "sandboxes", kept, "containers", app)); err != nil {
			return err
		}
		s.limits = append(s.limits, &limit{name: "bare " + name, close: func() error { return nil },
			start: func(context.Context) (time.Duration, error) {
				start, _, err := plain.Cycle()
				return start, err
			},
			crash: func(ctx context.Context) (time.Duration, error) {
				return plain.Crash(func() error { return pass(ctx, time.Second) })
			}})
	}
	s.limits[len(s.limits)-1].close = func() error { return s.oci.RemoveSandbox(context.Background(), kept) }
	return nil
}

// untilTold starts a pod by the fewest calls and gives the time until its program
// began.
func (l *criLife) untilTold(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	pod, _, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	at, err := l.told(ctx, pod, 0)
	if err != nil {
		return 0, err
	}
	return at.Sub(began), clearContainerd(ctx, l.rs)
}

// told waits until a pod's program says when it began.
func (l *criLife) told(ctx context.Context, pod *api.PodSandboxConfig, attempt uint32) (time.Time, error) {
	return pollEvery(ctx, toldGap, time.Minute, func() (time.Time, error) { return told(filepath.Join(pod.LogDirectory, criLog(attempt))) })
}

// crash is the restart of a program by the fewest calls.
func (l *criLife) crash(ctx context.Context) (time.Duration, error) {
	pod, ids, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := l.told(ctx, pod, 0); err != nil {
		return 0, err
	}
	listening, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	events, err := l.rs.GetContainerEvents(listening, &api.GetEventsRequest{})
	if err != nil {
		return 0, err
	}
	time.Sleep(time.Second) // until containerd knows its listener
	status, err := l.rs.ContainerStatus(ctx, &api.ContainerStatusRequest{ContainerId: ids[1], Verbose: true})
	if err != nil {
		return 0, err
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil || info.PID <= 1 {
		return 0, errors.Join(errors.New("the process of the container is not known"), err)
	}
	process, err := os.FindProcess(info.PID)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := process.Kill(); err != nil {
		return 0, err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return 0, err
		}
		if event.ContainerId == ids[1] && event.ContainerEventType == api.ContainerEventType_CONTAINER_STOPPED_EVENT {
			break
		}
	}
	if _, err := l.run(ctx, pod, ids[0], 1); err != nil {
		return 0, err
	}
	at, err := l.told(ctx, pod, 1)
	if err != nil {
		return 0, err
	}
	return at.Sub(began), clearContainerd(ctx, l.rs)
}

// many starts pods, eight at a time.
func (l *criLife) many(ctx context.Context, pods int) ([]time.Duration, error) {
	took := make([]time.Duration, pods)
	began := time.Now()
	err := all(pods, func(i int) error {
		pod, _, err := l.begin(ctx)
		if err != nil {
			return err
		}
		at, err := l.told(ctx, pod, 0)
		took[i] = at.Sub(began)
		return err
	})
	return took, errors.Join(err, clearContainerd(ctx, l.rs))
}

// clearContainerd removes every pod that there is.
func clearContainerd(ctx context.Context, rs api.RuntimeServiceClient) error {
	list, err := rs.ListPodSandbox(ctx, &api.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	return all(len(list.Items), func(i int) error {
		id := list.Items[i].Id
		_, stop := rs.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: id})
		_, remove := rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: id})
		if err := errors.Join(stop, remove); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
		return nil
	})
}
