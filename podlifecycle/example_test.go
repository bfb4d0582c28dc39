package podlifecycle_test

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// What would happen to a container that has crashed for the second time?
func ExamplePlan() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "0e1f"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "web:1"}}},
	}
	decision := podlifecycle.Plan(pod, podlifecycle.Observed{
		Prepared:  true,
		Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
		Containers: []runtimeiface.Container{{
			ID: "c", SandboxID: "s", Name: "app", Attempt: 1, State: runtimeiface.ContainerExited, ExitCode: 2, Reason: "Error",
			StartedAt: now.Add(-5 * time.Second), FinishedAt: now.Add(-2 * time.Second),
		}},
	}, now)

	fmt.Println("actions:", len(decision.Actions))
	fmt.Println("next:", decision.Next.Action, "at", decision.Next.At.Format(time.TimeOnly), "because", decision.Next.Reason)
	fmt.Println("state:", decision.Status.ContainerStatuses[0].State.Waiting.Reason)
	fmt.Println(decision.Records[0].Rule+":", decision.Records[0].Input)
	// Output:
	// actions: 0
	// next: restart app at 12:00:08 because the back-off of 10s ends
	// state: CrashLoopBackOff
	// back-off: attempt 1 exited with 2 (Error) after 3s
}

func ExampleManager() {
	root, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	rt, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "web:1"}}})
	if err != nil {
		panic(err)
	}
	statuses := make(chan *corev1.Pod, 100)
	m, err := podlifecycle.New(podlifecycle.Config{
		Runtime: rt, Root: root,
		OnStatus: func(pod *corev1.Pod) { statuses <- pod },
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()

	m.Set(source.Set{Pods: []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "0e1f"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "web:1"}}},
	}}})
	for pod := range statuses {
		if pod.Status.Phase == corev1.PodRunning {
			break
		}
	}
	why, err := m.Why("default", "web")
	fmt.Println(why.Summary, err)
	fmt.Println("stopped:", m.StopAll(ctx), len(m.Pods()))
	cancel()
	fmt.Println("ended:", <-ended)
	// Output:
	// Running and ready <nil>
	// stopped: <nil> 0
	// ended: <nil>
}

// A server offers commands in containers by the names that its callers know.
func ExampleManager_Exec() {
	root, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	rt, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "web:1", Program: runtimetest.Program{
		Exec: func(_ context.Context, p runtimetest.Process, _ []byte) runtimetest.ExecResult {
			return runtimetest.ExecResult{Stdout: fmt.Sprintln(p.Argv, "in", p.Container), Code: 3}
		},
	}}}})
	if err != nil {
		panic(err)
	}
	running := make(chan struct{}, 1)
	m, err := podlifecycle.New(podlifecycle.Config{Runtime: rt, Root: root, OnStatus: func(pod *corev1.Pod) {
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			select {
			case running <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	m.Set(source.Set{Pods: []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "0e1f"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "web:1"}}},
	}}})
	<-running

	code, err := m.Exec(ctx, "default", "web", "app", runtimeiface.ExecSpec{Command: []string{"ls", "/"}, Stdout: os.Stdout})
	fmt.Println("exit code:", code, err)
	_, err = m.Exec(ctx, "default", "web", "db", runtimeiface.ExecSpec{Command: []string{"ls"}})
	fmt.Println(err)
	cancel()
	<-ended
	// Output:
	// [ls /] in app
	// exit code: 3 <nil>
	// exec: container db in pod default/web: not found
}
