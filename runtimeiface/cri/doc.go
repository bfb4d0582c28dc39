// Package cri drives any container runtime that speaks the Kubernetes CRI v1,
// such as containerd, CRI-O and cri-dockerd: it implements runtimeiface.Runtime
// over the runtime's socket.
//
//	rt, err := cri.Dial(ctx, cri.Config{Endpoint: "unix:///run/containerd/containerd.sock"})
//	if err != nil { ... }
//	defer rt.Close()
//	id, err := rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
//		Name: "web", Namespace: "default", UID: uid, LogDirectory: dir,
//	})
//	ctr, err := rt.CreateContainer(ctx, id, runtimeiface.ContainerSpec{Name: "app", Image: image.ID})
//	err = rt.StartContainer(ctx, ctr)
//
// It starts and configures no runtime, and it wants to be on the same node: log
// directories are made, mount sources looked at and devices found here.
//
// # How the promises are kept
//
// A call that changes something goes on when its ctx ends, up to Config.Timeout,
// so that the runtime is never left half way; the caller has ctx's error at
// once. Before RunSandbox and CreateContainer make anything, and after an answer
// that was lost, they look for their identity, so that a repeated call finds what
// the first one made.
//
// Sandboxes and containers carry the labels io.kubernetes.pod.name, .namespace,
// .uid and io.kubernetes.container.name, which other tools look for, and the
// annotation [Annotation], which holds what a CRI does not give back. Neither is
// shown in what this package returns.
//
// The connection comes back by itself after a restart of the runtime; calls fail
// with ErrUnavailable meanwhile. Events come from GetContainerEvents where the
// runtime offers it, and from comparing lists where not, or as a net below it; a
// subscription survives a restart of the runtime.
//
// # Why not k8s.io/cri-client
//
// It logs to klog's global logger, brings OpenTelemetry and component-base, adds
// a fixed time-out of its own to each call and hides gRPC's codes behind an
// interface made for the kubelet. What is left of it is google.golang.org/grpc
// with k8s.io/cri-api, which are used here directly. Streaming exec is SPDY of
// k8s.io/streaming, without client-go.
//
// # What a CRI cannot do
//
// These are told with ErrNotSupported and the field's name, never left out:
//
//   - ContainerSpec.Mounts of type tmpfs, and options of a bind that the CRI has
//     no word for.
//   - Resources beside CPU, memory, huge pages and Unified, so no process limit
//     for a container.
//   - RemoveImage of one of several names: a CRI removes all of them.
//
// These differ:
//
//   - Grace is in whole seconds, rounded up.
//   - A pull tells its first and its last phase; a CRI has no progress.
//   - When ctx ends an Exec, the runtime kills the command. Its descendants are
//     killed on Linux, where this process may signal them (as root, seeing the
//     runtime's /proc).
//   - A container that was stopped before it started is Created for the CRI. It
//     is Exited here until the process ends, and for good once its sandbox has
//     been stopped.
//   - Image.User lacks the group.
//
// # Runtimes
//
// containerd v2.4 is what the tests run. CRI-O: give it
// --enable-pod-events, else there is no GetContainerEvents. cri-dockerd
// (unix:///run/cri-dockerd.sock) makes Docker Engine a backend; it offers no
// events, and Docker's own exit reasons are mapped. On Windows the endpoint is a
// pipe, npipe:////./pipe/containerd-containerd.
//
// # Traps
//
//   - Two Runtimes, or an agent and a kubelet, on one endpoint see each other's
//     pods in lists. Labels are the way to tell them apart.
//   - An Exec without Stdin and TTY has at most 16 MiB of output: gRPC's message.
//     Give it an empty Stdin to have it streamed.
package cri
