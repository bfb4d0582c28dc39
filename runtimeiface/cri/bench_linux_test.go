package cri_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// sample is what one run took: on the wall, and of this process' CPU.
type sample struct{ wall, cpu time.Duration }

func measured(b *testing.B, f func() error) sample {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	cpu, began := used(), time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return sample{time.Since(began), used() - cpu}
}

// pairs are runs through this package and by bare gRPC calls, next to each other
// and each first in turn, so that what else the machine does meets both alike.
type pairs struct{ adapter, bare []sample }

func (p *pairs) take(b *testing.B, i int, adapter, bare func() error) {
	if i%2 == 0 {
		p.adapter = append(p.adapter, measured(b, adapter))
		p.bare = append(p.bare, measured(b, bare))
	} else {
		p.bare = append(p.bare, measured(b, bare))
		p.adapter = append(p.adapter, measured(b, adapter))
	}
}

// report gives medians in ms, what the adapter adds as the median of the pairs'
// differences in percent of the bare median, and the quartiles of that.
func (p *pairs) report(b *testing.B, what string) {
	for _, side := range []struct {
		name string
		of   func(sample) time.Duration
	}{{"", func(s sample) time.Duration { return s.wall }}, {"cpu-", func(s sample) time.Duration { return s.cpu }}} {
		var adapter, bare, more []float64
		for i := range p.adapter {
			x, y := side.of(p.adapter[i]).Seconds()*1000, side.of(p.bare[i]).Seconds()*1000
			adapter, bare, more = append(adapter, x), append(bare, y), append(more, x-y)
		}
		for _, list := range [][]float64{adapter, bare, more} {
			slices.Sort(list)
		}
		at := func(list []float64, of float64) float64 { return list[int(of*float64(len(list)-1)+0.5)] }
		b.ReportMetric(at(adapter, 0.5), side.name+"ms/"+what)
		b.ReportMetric(at(bare, 0.5), side.name+"ms/bare-"+what)
		b.ReportMetric(at(more, 0.5)*1000, side.name+"us-more/"+what)
		if side.name == "" { // of CPU the bare calls take next to nothing here: the runtime works
			b.ReportMetric(at(more, 0.5)/at(bare, 0.5)*100, "%more/"+what)
			b.ReportMetric(at(more, 0.25)/at(bare, 0.5)*100, "%more-1st-quartile/"+what)
			b.ReportMetric(at(more, 0.75)/at(bare, 0.5)*100, "%more-3rd-quartile/"+what)
		}
	}
}

func bareClient(b *testing.B, n *node) api.RuntimeServiceClient {
	conn, err := grpc.NewClient("unix://"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return api.NewRuntimeServiceClient(conn)
}

// BenchmarkPod is the life of a pod with one container, image present:
//
//	go test -run ^$ -bench Pod -benchtime 40x ./runtimeiface/cri
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	img, err := n.rt.PullImage(context.Background(), runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
	if err != nil {
		b.Fatal(err)
	}
	bare := bareClient(b, n)
	var start, stop pairs
	for i := 0; b.Loop(); i++ {
		var ours, theirs [2]string
		start.take(b, i,
			func() (err error) { ours, err = n.startAdapter(img.ID, i); return err },
			func() (err error) { theirs, err = n.startBare(bare, img.ID, i); return err })
		stop.take(b, i,
			func() error { return n.stopAdapter(ours) },
			func() error { return stopBare(bare, theirs) })
	}
	start.report(b, "start")
	stop.report(b, "stop+remove")
}

// BenchmarkExec is a command, streamed by this package and by a bare ExecSync.
func BenchmarkExec(b *testing.B) {
	n := newNode(b)
	ctx := context.Background()
	img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
	if err != nil {
		b.Fatal(err)
	}
	bare := bareClient(b, n)
	ids, err := n.startAdapter(img.ID, 0)
	if err != nil {
		b.Fatal(err)
	}
	var exec pairs
	for i := 0; b.Loop(); i++ {
		exec.take(b, i, func() error {
			_, err := runtimeiface.ExecSync(ctx, n.rt, ids[1], []string{"/prog", "print", "x"})
			return err
		}, func() error {
			_, err := bare.ExecSync(ctx, &api.ExecSyncRequest{ContainerId: ids[1], Cmd: []string{"/prog", "print", "x"}})
			return err
		})
	}
	exec.report(b, "exec")
}

// startAdapter gives the IDs of sandbox and container.
func (n *node) startAdapter(image string, i int) (ids [2]string, err error) {
	ctx := context.Background()
	uid := fmt.Sprintf("adapter-%d", i)
	if ids[0], err = n.rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
		Name: uid, Namespace: "bench", UID: uid, LogDirectory: n.logs + "/" + uid,
	}); err != nil {
		return ids, err
	}
	if ids[1], err = n.rt.CreateContainer(ctx, ids[0], runtimeiface.ContainerSpec{Name: "app", Image: image, LogPath: "app.log"}); err != nil {
		return ids, err
	}
	return ids, n.rt.StartContainer(ctx, ids[1])
}

func (n *node) stopAdapter(ids [2]string) error {
	if err := n.rt.StopContainer(context.Background(), ids[1], 0); err != nil {
		return err
	}
	return n.rt.RemoveSandbox(context.Background(), ids[0])
}

// What this package tells for Security's zero value: mounts cost runc time.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/powercap",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func (n *node) startBare(rs api.RuntimeServiceClient, image string, i int) (ids [2]string, err error) {
	ctx := context.Background()
	uid := fmt.Sprintf("bare-%d", i)
	pod := &api.PodSandboxConfig{
		Metadata: &api.PodSandboxMetadata{Name: uid, Namespace: "bench", Uid: uid}, LogDirectory: n.logs + "/" + uid, Hostname: uid,
		Linux: &api.LinuxPodSandboxConfig{SecurityContext: &api.LinuxSandboxSecurityContext{
			NamespaceOptions: &api.NamespaceOption{Pid: api.NamespaceMode_CONTAINER}, Seccomp: &api.SecurityProfile{},
		}},
	}
	sb, err := rs.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return ids, err
	}
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
	if err != nil {
		return ids, err
	}
	ids = [2]string{sb.PodSandboxId, c.ContainerId}
	_, err = rs.StartContainer(ctx, &api.StartContainerRequest{ContainerId: ids[1]})
	return ids, err
}

func stopBare(rs api.RuntimeServiceClient, ids [2]string) error {
	ctx := context.Background()
	if _, err := rs.StopContainer(ctx, &api.StopContainerRequest{ContainerId: ids[1]}); err != nil {
		return err
	}
	if _, err := rs.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: ids[0]}); err != nil {
		return err
	}
	_, err := rs.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: ids[0]})
	return err
}
