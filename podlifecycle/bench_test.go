package podlifecycle_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// A pod of an init container, a sidecar and two containers, all well.
func BenchmarkPlanRunningPod(b *testing.B) {
	pod := newPod("web", withInit)
	now := time.Now()
	o := podlifecycle.Observed{Prepared: true, Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
		Verdicts: map[string]podlifecycle.Verdicts{}}
	for i, name := range []string{"first", "proxy", "second", "app", "other"} {
		c := runtimeiface.Container{ID: fmt.Sprint(i), SandboxID: "s", Name: name, State: runtimeiface.ContainerRunning, StartedAt: now}
		if name == "first" || name == "second" {
			c.State, c.FinishedAt = runtimeiface.ContainerExited, now
		}
		o.Containers = append(o.Containers, c)
		o.Verdicts[c.ID] = podlifecycle.Verdicts{Readiness: probe.Success}
	}
	o.Prior = podlifecycle.Plan(pod, o, now).Status
	b.ReportAllocs()
	for b.Loop() {
		podlifecycle.Plan(pod, o, now)
	}
}

// The cost of a node at rest: 110 pods, each with a readiness and a liveness
// probe every 10 s, on a runtime that costs little. The figure cpu-%
// is of one core. Run it with -benchtime=1x.
func BenchmarkIdle110Pods(b *testing.B) { idle(b, 110) }

// The same with more and more pods: the cost of each stays what it is.
func BenchmarkIdlePods(b *testing.B) {
	for _, pods := range []int{100, 300, 1000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) { idle(b, pods) })
	}
}

func idle(b *testing.B, pods int) {
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "web:1", Present: true}}})
	if err != nil {
		b.Fatal(err)
	}
	root := b.TempDir()
	m, err := podlifecycle.New(podlifecycle.Config{Runtime: fake, Root: root, Prober: &fakeProber{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var set source.Set
	for i := range pods {
		set.Pods = append(set.Pods, newPod(fmt.Sprintf("web-%04d", i), func(p *corev1.Pod) {
			p.UID = types.UID(fmt.Sprintf("uid-%04d", i))
			p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
			p.Spec.Containers[0].LivenessProbe = execProbe("live")
		}))
	}
	began := time.Now()
	m.Set(set)
	for {
		ready := 0
		for _, pod := range m.Pods() {
			if isReady(pod) {
				ready++
			}
		}
		if ready == len(set.Pods) {
			break
		}
		if time.Since(began) > time.Minute {
			b.Fatalf("%d ready", ready)
		}
		time.Sleep(5 * time.Millisecond)
	}
	untilReady := time.Since(began)
	time.Sleep(time.Second)
	const span = 20 * time.Second
	for b.Loop() {
		before := cpuTime(b)
		time.Sleep(span)
		spent := cpuTime(b) - before
		b.ReportMetric(100*float64(spent)/float64(span), "cpu-%")
		b.ReportMetric(float64(spent.Microseconds())/float64(pods)/span.Seconds(), "µs/pod/s")
	}
	b.ReportMetric(float64(untilReady.Milliseconds()), "ms-until-all-ready")
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(mem.HeapAlloc)/float64(pods)/(1<<10), "KiB/pod")
	b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// From the exit of a container on the fake runtime to its running again.
func BenchmarkFirstRestart(b *testing.B) {
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "web:1", Present: true}}})
	if err != nil {
		b.Fatal(err)
	}
	root, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(root)
	m, err := podlifecycle.New(podlifecycle.Config{Runtime: fake, Root: root, Prober: &fakeProber{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	events, err := fake.Subscribe(ctx)
	if err != nil {
		b.Fatal(err)
	}
	started := func() string {
		for e := range events {
			if e.Type == runtimeiface.ContainerStarted {
				return e.ContainerID
			}
		}
		b.Fatal("no more events")
		return ""
	}
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		m.Set(source.Set{Pods: []*corev1.Pod{newPod(fmt.Sprintf("web-%d", n))}})
		id := started()
		b.StartTimer()
		if err := fake.Exit(id, 1); err != nil {
			b.Fatal(err)
		}
		started()
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
