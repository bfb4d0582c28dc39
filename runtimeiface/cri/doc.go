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
// RunContainers creates all at once and then starts all at once; there is one call
// of the CRI for each.
//
// # Streams
//
// Exec and Attach go to the address that the runtime gives for them, in SPDY with
// the protocol v4.channel.k8s.io, which containerd v2.4, CRI-O v1.37 and
// cri-dockerd v0.4.3 speak. The address must be one of this node; no redirect is
// followed and no proxy asked, and what is not SPDY is ErrNotSupported. So is a
// CRI-O with stream_websockets for its runtimes of type "pod"; it is off there by
// default. WebSocket would be no gain elsewhere: the servers above have it up to
// v4, which cannot tell the end of standard input.
//
// Where a command has no Stdin and no TTY and streams are out of reach, ExecSync
// is used, whose answer is one message: more than 16 MiB of output fail. So it is
// where this process is not root, as it could not end a command whose ctx ends.
//
// PortForward dials in the sandbox's network namespace, where this process is
// root on the same Linux. The forwarding of runtimes does not tell a pod that its
// client has said its last, and ends a second later: containerd v2.4.2
// (internal/cri/server/sandbox_portforward_linux.go) and CRI-O v1.37
// (internal/oci/runtime_oci_linux.go) alike. It is used elsewhere, and there a
// client that waits for an answer is not to close its side first.
//
// # Why not k8s.io/cri-client
//
// It logs to klog's global logger, brings OpenTelemetry and component-base, adds
// a fixed time-out of its own to each call and hides gRPC's codes behind an
// interface made for the kubelet. What is left of it is google.golang.org/grpc
// with k8s.io/cri-api, which are used here directly. Streams are SPDY of
// k8s.io/streaming, without client-go.
//
// # What a CRI cannot do
//
// These are told with ErrNotSupported and the field's name, never left out:
//
//   - ContainerSpec.Mounts of type tmpfs, and options of a bind that the CRI has
//     no word for. It has words for nosuid, nodev and noexec, which containerd
//     v2.4 and CRI-O v1.37 do not take yet.
//   - Resources beside CPU, memory, huge pages and Unified, so no process limit
//     for a container.
//   - RemoveImage of one of several names: a CRI removes all of them.
//   - A UserNamespace of more than one range of IDs, or whose ranges of UIDs and
//     GIDs differ in size; one at all, and mounts with rro, where the runtime's
//     Status says that the handler has no such feature.
//
// These differ:
//
//   - Grace is in whole seconds, rounded up.
//   - A pull tells its first and its last phase; a CRI has no progress.
//   - When ctx ends an Exec, the command and its descendants are killed on Linux,
//     where this process may signal them (as root, seeing the runtime's /proc). A
//     descendant whose parents are gone is known by the output that it shares with
//     the command; one that let go of that too goes on. Elsewhere the runtime
//     kills the command alone.
//   - A container that was stopped before it started is Created for the CRI. It
//     is Exited here until the process ends, and for good once its sandbox has
//     been stopped.
//   - Image.User lacks the group.
//   - Filesystem.UsedBytes is what the runtime counted last: containerd does
//     every 10 s.
//
// # containerd
//
// v2.4.2 is what the tests run, with runc and CNI. On Windows the endpoint is a
// pipe, npipe:////./pipe/containerd-containerd. What it does not keep by itself:
//
//   - If its shim is killed it tells exit code 255 as if the process had said so.
//     That is ExitCodeUnknown with ReasonUnknown here, unless the sandbox was
//     stopped before this Runtime looked at the container.
//   - The end of Stdin of a command with a terminal ends its output; it is not told
//     here.
//   - Containers of one sandbox that mount the same image are created one after
//     the other here, as it mounts the image twice otherwise.
//   - An update of an exited container succeeds for it; it is ErrNotRunning here.
//   - /dev/shm belongs to nobody in a user namespace. All may write there.
//
// One that is killed in the middle of StartContainer, and comes back when the
// program is over, takes the container for one that never ran: StartContainer
// repeated runs it once more. Of what ends while containerd is not there, it may
// not know how: that is [runtimeiface.ExitCodeUnknown]. A sandbox in the making is
// not ready afterwards; the next attempt runs. The process of a shim that was just
// being started may stay, without a container, until somebody ends it.
//
// # CRI-O
//
// The endpoint is unix:///run/crio/crio.sock. Facts are those of its source on the
// way to v1.37.0, commit f954a17; nothing of it runs in the tests.
//
//   - Events: set enable_pod_events, or --enable-pod-events. Without it
//     GetContainerEvents ends at once, and lists are compared.
//   - Streams: at stream_address, 127.0.0.1 by default, SPDY.
//   - Logs: conmon writes the CRI's format, of a terminal as well, as stdout. Leave
//     log_size_max at -1: it cuts logs without the caller's doing.
//   - Start: the OCI runtime's create is in CreateContainer, so that is where a
//     program that is not there is told, not StartContainer with ReasonStartError.
//   - Out of memory: conmon sees it and it is OOMKilled, with the first process'
//     own exit code, as runtimeiface has it.
//   - Exit: conmon outlives CRI-O and writes the exit code to a file; one that is
//     not found is -1 for CRI-O, and ExitCodeUnknown with ReasonUnknown here.
//   - UpdateContainer: swap follows the limit of memory; huge pages are left out.
//
// # Docker, by cri-dockerd
//
// cri-dockerd makes a Docker Engine speak the CRI. Facts are those of its v0.4.3;
// nothing of it runs in the tests.
//
//	cri-dockerd --container-runtime-endpoint unix:///run/cri-dockerd.sock \
//	    --docker-endpoint unix:///var/run/docker.sock \
//	    --network-plugin cni --cni-conf-dir /etc/cni/net.d --cni-bin-dir /opt/cni/bin \
//	    --pod-infra-container-image registry.k8s.io/pause:3.10 \
//	    --streaming-bind-addr 127.0.0.1
//
//	rt, err := cri.Dial(ctx, cri.Config{Endpoint: "unix:///run/cri-dockerd.sock"})
//
// Without --streaming-bind-addr everyone on the network reaches its streaming
// server. Pods want a CNI network, not Docker's own; the pause image must be
// within reach of Docker. Docker's log driver must be json-file. For PortForward
// by the runtime socat and nsenter are needed. What differs:
//
//   - No events are offered: changes are seen by lists, each Config.PollPeriod.
//   - A log is a symbolic link to Docker's own file, in Docker's JSON, not the
//     CRI's format. Docker rotates it (max-size, max-file); ReopenLog is
//     ErrNotSupported.
//   - Exec goes on in the container when its client is gone, or its time is up,
//     unless this package kills it, see above. After its end Docker is asked five
//     times, two seconds apart, whether it ended: one that leaves a child with its
//     streams may be reported as 0.
//   - Not there, and told by ErrNotSupported: StopSignal, image mounts, rro,
//     UserNamespace, Unified, huge pages, a limit of swap of its own, and every
//     RuntimeHandler but "docker".
//   - The sandbox's PID is not told, so PortForward is by the runtime.
//   - A program that is not there is ContainerCannotRun, ReasonStartError here.
//
// There is no docker backend beside it. The Engine API has no pod, no network of a
// pod's own by CNI and no log in the CRI's format, and its names are flat: a backend
// would do again what cri-dockerd does in 15,600 lines of Go beside its tests, and
// keep fewer promises than the others. Docker stands on containerd, which has a CRI
// itself; on a node of one's own, Dial that one (its packages for Docker disable
// the plug-in "cri" in /etc/containerd/config.toml), or use runtimeiface/oci with
// no daemon at all.
//
// # Traps
//
//   - Two Runtimes, or an agent and a kubelet, on one endpoint see each other's
//     pods in lists. Labels are the way to tell them apart.
//   - Runtimes end streams on which nothing was said for long (containerd: 4 h, by
//     stream_idle_timeout): Exec and Attach are then ErrUnavailable.
//   - The end of Stdin ends an Attach, but not where StdinOnce is set without TTY.
//     Give it a Stdin that goes on, or none.
package cri
