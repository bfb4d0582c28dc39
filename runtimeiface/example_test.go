package runtimeiface_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// newRuntime gives a runtime without a kernel; oci.New or cri.Dial give others.
func newRuntime() runtimeiface.Runtime {
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{
		Images: []runtimetest.FakeImage{
			{Ref: "registry.test/web:1"},
			{Ref: "registry.test/job:1", Program: runtimetest.Program{Exit: &runtimetest.Exit{Code: 3}}},
		},
	})
	if err != nil {
		panic(err)
	}
	return fake
}

// One pod, from the pull to the removal.
func ExampleRuntime() {
	ctx, rt := context.Background(), newRuntime()
	err := func() error {
		img, err := rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: "registry.test/web:1"}, nil)
		if err != nil {
			return err
		}
		pod, err := rt.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "web-0", Namespace: "default", UID: "7c6f"})
		if err != nil {
			return err
		}
		app, err := rt.CreateContainer(ctx, pod, runtimeiface.ContainerSpec{Name: "app", Image: img.ID})
		if err != nil {
			return err
		}
		if err := rt.StartContainer(ctx, app); err != nil {
			return err
		}
		sandbox, err := rt.SandboxStatus(ctx, pod)
		if err != nil {
			return err
		}
		container, err := rt.ContainerStatus(ctx, app)
		if err != nil {
			return err
		}
		fmt.Println(sandbox.Name, sandbox.State, sandbox.IPs, container.Name, container.State)
		if err := rt.StopContainer(ctx, app, 0); err != nil {
			return err
		}
		container, err = rt.ContainerStatus(ctx, app)
		if err != nil {
			return err
		}
		fmt.Println(container.Name, container.State, container.ExitCode)
		return rt.RemoveSandbox(ctx, pod)
	}()
	fmt.Println(err)
	// Output:
	// web-0 Ready [10.88.0.2] app Running
	// app Exited 137
	// <nil>
}

// Calls repeated after a lost answer never make a second instance.
func ExampleSandboxes() {
	ctx := context.Background()
	var sandboxes runtimeiface.Sandboxes = newRuntime()
	spec := runtimeiface.SandboxSpec{Name: "web-0", Namespace: "default", UID: "7c6f"}
	first, _ := sandboxes.RunSandbox(ctx, spec)
	second, _ := sandboxes.RunSandbox(ctx, spec)
	spec.Attempt++
	third, _ := sandboxes.RunSandbox(ctx, spec)
	fmt.Println(first == second, second == third)
	list, _ := sandboxes.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: "7c6f"})
	for _, s := range list {
		fmt.Println(s.Name, s.Attempt, s.State)
	}
	// Output:
	// true false
	// web-0 0 Ready
	// web-0 1 Ready
}

// Errors are told apart with errors.Is, whatever the backend.
func ExampleImages() {
	ctx := context.Background()
	var images runtimeiface.Images = newRuntime()
	for _, ref := range []string{"registry.test/web:1", "registry.test/web:2", "registry.test/WEB"} {
		_, err := images.PullImage(ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
		switch {
		case errors.Is(err, runtimeiface.ErrNotFound):
			fmt.Println("ErrImagePull:", err)
		case errors.Is(err, runtimeiface.ErrInvalidImageName):
			fmt.Println("InvalidImageName:", err)
		default:
			fmt.Println(ref, err)
		}
	}
	// Output:
	// registry.test/web:1 <nil>
	// ErrImagePull: pull image registry.test/web:2: not found
	// InvalidImageName: pull image: invalid image name: "registry.test/WEB": repository
}

// A command in a running container.
func ExampleStreams() {
	ctx := context.Background()
	fake, _ := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{
		Ref: "web", Present: true, Program: runtimetest.Program{
			Exec: func(_ context.Context, p runtimetest.Process, _ []byte) runtimetest.ExecResult {
				return runtimetest.ExecResult{Stdout: p.Argv[0] + " says hello\n", Code: 2}
			},
		},
	}}})
	img, _ := fake.ImageStatus(ctx, "web")
	pod, _ := fake.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "web-0", Namespace: "default", UID: "7c6f"})
	app, _ := fake.CreateContainer(ctx, pod, runtimeiface.ContainerSpec{Name: "app", Image: img.ID})
	_ = fake.StartContainer(ctx, app)
	var streams runtimeiface.Streams = fake
	code, err := streams.Exec(ctx, app, runtimeiface.ExecSpec{Command: []string{"check"}, Stdout: os.Stdout})
	fmt.Println(code, err)
	// Output:
	// check says hello
	// 2 <nil>
}
