package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/internal/barepod"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// limit is what a start costs an agent that does nothing of its own.
type limit struct {
	name   string
	start  func(context.Context) (time.Duration, error)
	close  func() error
	starts []time.Duration
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
	calls := &criLife{rs: api.NewRuntimeServiceClient(conn), image: pulled.ImageRef, logs: filepath.Join(s.dir, "logs"), args: []string{"now"}}
	s.limits = append(s.limits, &limit{name: "the bare CRI calls", start: calls.untilTold, close: func() error { return nil }})
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
		s.limits = append(s.limits, &limit{name: "bare " + name, close: func() error { return nil }, start: func(context.Context) (time.Duration, error) {
			start, _, err := plain.Cycle()
			return start, err
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
	at, err := poll(time.Minute, func() (time.Time, error) { return told(filepath.Join(pod.LogDirectory, criLog)) })
	if err != nil {
		return 0, err
	}
	return at.Sub(began), clearContainerd(ctx, l.rs)
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
