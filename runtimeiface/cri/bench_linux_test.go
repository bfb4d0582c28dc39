package cri_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// BenchmarkPod is the life of a pod with one container, image present, through
// this package and by bare gRPC calls in turn. It reports medians.
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	ctx := context.Background()
	img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
	if err != nil {
		b.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	bare := api.NewRuntimeServiceClient(conn)
	var times [4][]time.Duration
	for i := 0; b.Loop(); i++ {
		for j := range 2 {
			if (i+j)%2 == 0 {
				a, z := n.lifeAdapter(b, img.ID, i)
				times[0], times[1] = append(times[0], a), append(times[1], z)
			} else {
				a, z := n.lifeBare(b, bare, img.ID, i)
				times[2], times[3] = append(times[2], a), append(times[3], z)
			}
		}
	}
	for i, unit := range []string{"ms/start", "ms/stop+remove", "ms/bare-start", "ms/bare-stop+remove"} {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Microseconds())/1000, unit)
	}
}

func (n *node) lifeAdapter(b *testing.B, image string, i int) (start, stop time.Duration) {
	ctx := context.Background()
	uid := fmt.Sprintf("adapter-%d", i)
	began := time.Now()
	sb, err := n.rt.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: uid, Namespace: "bench", UID: uid, LogDirectory: n.logs + "/" + uid})
	if err != nil {
		b.Fatal(err)
	}
	id, err := n.rt.CreateContainer(ctx, sb, runtimeiface.ContainerSpec{Name: "app", Image: image, LogPath: "app.log"})
	if err != nil {
		b.Fatal(err)
	}
	if err := n.rt.StartContainer(ctx, id); err != nil {
		b.Fatal(err)
	}
	start = time.Since(began)
	began = time.Now()
	if err := n.rt.StopContainer(ctx, id, 0); err != nil {
		b.Fatal(err)
	}
	if err := n.rt.RemoveSandbox(ctx, sb); err != nil {
		b.Fatal(err)
	}
	return start, time.Since(began)
}

// What this package tells for Security's zero value: mounts cost runc time.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/powercap",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func (n *node) lifeBare(b *testing.B, rs api.RuntimeServiceClient, image string, i int) (start, stop time.Duration) {
	ctx := context.Background()
	uid := fmt.Sprintf("bare-%d", i)
	pod := &api.PodSandboxConfig{
		Metadata: &api.PodSandboxMetadata{Name: uid, Namespace: "bench", Uid: uid}, LogDirectory: n.logs + "/" + uid, Hostname: uid,
		Linux: &api.LinuxPodSandboxConfig{SecurityContext: &api.LinuxSandboxSecurityContext{
			NamespaceOptions: &api.NamespaceOption{Pid: api.NamespaceMode_CONTAINER}, Seccomp: &api.SecurityProfile{},
		}},
	}
	fail := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	sb, err := rs.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: pod})
	fail(err)
	c, err := rs.CreateContainer(ctx, &api.CreateContainerRequest{
		PodSandboxId: sb.PodSandboxId, SandboxConfig: pod, Config: &api.ContainerConfig{
			Metadata: &api.ContainerMetadata{Name: "app"}, Image: &api.ImageSpec{Image: image}, LogPath: "app.log",
			Linux: &api.LinuxContainerConfig{Resources: &api.LinuxContainerResources{}, SecurityContext: &api.LinuxContainerSecurityContext{
				NamespaceOptions: &api.NamespaceOption{Pid: api.NamespaceMode_CONTAINER},
				Seccomp:          &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined},
				MaskedPaths:      masked, ReadonlyPaths: readonly,
			}},
		},
	})
	fail(err)
	_, err = rs.StartContainer(ctx, &api.StartContainerRequest{ContainerId: c.ContainerId})
	fail(err)
	start = time.Since(began)
	began = time.Now()
	_, err = rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: c.ContainerId})
	fail(err)
	_, err = rs.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: sb.PodSandboxId})
	fail(err)
	_, err = rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: sb.PodSandboxId})
	fail(err)
	return start, time.Since(began)
}
