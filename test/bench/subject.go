package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/internal/barepod"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// subject is one way to have a pod.
type subject struct {
	name string
	// cycle starts a pod with one container, and then stops and removes it.
	cycle func(context.Context) (start, remove time.Duration, err error)
	close func() error // may be nil
}

func (s *stage) subjects(ctx context.Context, runtimes []string) ([]subject, error) {
	adapter, err := cri.Dial(ctx, cri.Config{Endpoint: "unix://" + s.daemon.Socket})
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+s.daemon.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	// One pod stays: it keeps the bridge, and lends its bundle.
	ours, err := newLife(ctx, s.oci, s.image, "")
	if err != nil {
		return nil, err
	}
	kept, app, err := ours.begin(ctx)
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(s.dir, "oci", "sandboxes", kept, "containers", app)
	kernel := &barepod.Pod{Dir: filepath.Join(s.dir, "kernel"), Bridge: oci.DefaultBridge}
	if err := kernel.Take(bundle); err != nil {
		return nil, err
	}
	out := []subject{{
		name:  "the kernel alone: namespaces, veth, overlay, clone, exec",
		cycle: func(context.Context) (time.Duration, time.Duration, error) { return kernel.Cycle() },
		close: func() error { return s.oci.RemoveSandbox(ctx, kept) },
	}}
	for _, r := range runtimes {
		program, err := exec.LookPath(r)
		if err != nil {
			return nil, err
		}
		plain := &barepod.Pod{Dir: filepath.Join(s.dir, "bare-"+r), Runtime: program, Bridge: oci.DefaultBridge, Cgroup: s.cgroup + "/bare"}
		if err := plain.Take(bundle); err != nil {
			return nil, err
		}
		handler := "bench-" + r
		daemonless, err := newLife(ctx, s.oci, s.image, handler)
		if err != nil {
			return nil, err
		}
		adapted, err := newLife(ctx, adapter, s.image, handler)
		if err != nil {
			return nil, err
		}
		direct := &criLife{rs: api.NewRuntimeServiceClient(conn), image: adapted.image, handler: handler, logs: filepath.Join(s.dir, "logs")}
		out = append(out,
			subject{name: "bare " + r + ": the same with " + r, cycle: func(context.Context) (time.Duration, time.Duration, error) { return plain.Cycle() }},
			subject{name: "runtimeiface/oci, " + r, cycle: daemonless.cycle},
			subject{name: "containerd's CRI, " + r + ", by bare gRPC", cycle: direct.cycle},
			subject{name: "containerd's CRI, " + r + ", by runtimeiface/cri", cycle: adapted.cycle},
		)
	}
	out[len(out)-1].close = func() error { return errors.Join(conn.Close(), adapter.Close()) }
	return out, nil
}

// lives counts pods.
var lives atomic.Int64

// life is a pod's through runtimeiface.
type life struct {
	rt      runtimeiface.Runtime
	image   string // ID
	handler string
}

func newLife(ctx context.Context, rt runtimeiface.Runtime, ref, handler string) (*life, error) {
	img, err := rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	if err != nil {
		return nil, err
	}
	return &life{rt: rt, image: img.ID, handler: handler}, nil
}

// begin starts a pod.
func (l *life) begin(ctx context.Context) (sandbox, container string, err error) {
	uid := fmt.Sprintf("life-%d", lives.Add(1))
	sandbox, err = l.rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
		Name: uid, Namespace: "bench", UID: uid, LogDirectory: filepath.Join("/run/nodebench", uid), RuntimeHandler: l.handler,
	})
	if err != nil {
		return "", "", err
	}
	container, err = l.rt.CreateContainer(ctx, sandbox, runtimeiface.ContainerSpec{Name: "app", Image: l.image, LogPath: "app.log"})
	if err != nil {
		return "", "", err
	}
	return sandbox, container, l.rt.StartContainer(ctx, container)
}

func (l *life) cycle(ctx context.Context) (start, remove time.Duration, err error) {
	began := time.Now()
	sandbox, container, err := l.begin(ctx)
	if err != nil {
		return 0, 0, err
	}
	start = time.Since(began)
	began = time.Now()
	if err := l.rt.StopContainer(ctx, container, 0); err != nil {
		return 0, 0, err
	}
	err = l.rt.RemoveSandbox(ctx, sandbox)
	return start, time.Since(began), err
}

// What runtimeiface/cri tells for the zero value of Security: mounts cost time.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/powercap",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// criLife is a pod's through the fewest calls of the CRI.
type criLife struct {
	rs                   api.RuntimeServiceClient
	image, handler, logs string
	args                 []string
}

// criLog is the log of a container in its pod's directory.
func criLog(attempt uint32) string { return fmt.Sprintf("app-%d.log", attempt) }

// begin starts a pod and gives it with the IDs of its sandbox and its container.
func (l *criLife) begin(ctx context.Context) (*api.PodSandboxConfig, [2]string, error) {
	uid := fmt.Sprintf("direct-%d", lives.Add(1))
	pod := &api.PodSandboxConfig{
		Metadata: &api.PodSandboxMetadata{Name: uid, Namespace: "bench", Uid: uid}, LogDirectory: filepath.Join(l.logs, uid), Hostname: uid,
		Linux: &api.LinuxPodSandboxConfig{SecurityContext: &api.LinuxSandboxSecurityContext{
			NamespaceOptions: &api.NamespaceOption{Pid: api.NamespaceMode_CONTAINER}, Seccomp: &api.SecurityProfile{},
		}},
	}
	sandbox, err := l.rs.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: pod, RuntimeHandler: l.handler})
	if err != nil {
		return nil, [2]string{}, err
	}
	container, err := l.run(ctx, pod, sandbox.PodSandboxId, 0)
	return pod, [2]string{sandbox.PodSandboxId, container}, err
}

// run starts the container.
func (l *criLife) run(ctx context.Context, pod *api.PodSandboxConfig, sandbox string, attempt uint32) (string, error) {
	container, err := l.rs.CreateContainer(ctx, &api.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: pod, Config: &api.ContainerConfig{
			Metadata: &api.ContainerMetadata{Name: "app", Attempt: attempt}, Image: &api.ImageSpec{Image: l.image}, Args: l.args, LogPath: criLog(attempt),
			Linux: &api.LinuxContainerConfig{Resources: &api.LinuxContainerResources{}, SecurityContext: &api.LinuxContainerSecurityContext{
				NamespaceOptions: &api.NamespaceOption{Pid: api.NamespaceMode_CONTAINER},
				Seccomp:          &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined},
				MaskedPaths:      masked, ReadonlyPaths: readonly,
			}},
		},
	})
	if err != nil {
		return "", err
	}
	_, err = l.rs.StartContainer(ctx, &api.StartContainerRequest{ContainerId: container.ContainerId})
	return container.ContainerId, err
}

func (l *criLife) cycle(ctx context.Context) (start, remove time.Duration, err error) {
	began := time.Now()
	_, ids, err := l.begin(ctx)
	if err != nil {
		return 0, 0, err
	}
	start = time.Since(began)
	began = time.Now()
	if _, err := l.rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: ids[1]}); err != nil {
		return 0, 0, err
	}
	if _, err := l.rs.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: ids[0]}); err != nil {
		return 0, 0, err
	}
	_, err = l.rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: ids[0]})
	return start, time.Since(began), err
}
