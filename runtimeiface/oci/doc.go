// Package oci is a container runtime without a daemon: it implements
// runtimeiface.Runtime with the command line of an OCI runtime (runc, crun),
// images and overlay roots of its own, a bridge network by netlink, and one
// small shim process per pod.
//
//	rt, err := oci.Open(oci.Config{Root: "/var/lib/nodekit"})
//	if err != nil { ... }
//	defer rt.Close()
//	img, err := rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: "registry.k8s.io/pause:3.10"}, nil)
//	id, err := rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
//		Name: "web", Namespace: "default", UID: uid, LogDirectory: dir,
//	})
//	ctr, err := rt.CreateContainer(ctx, id, runtimeiface.ContainerSpec{Name: "app", Image: img.ID})
//	err = rt.StartContainer(ctx, ctr)
//
// It does not decide anything: pulls, restarts, limits and when images are
// collected ([Runtime.CollectImages], [Runtime.ImageFilesystem]) belong to the
// caller. It does no masquerading and no services:
// that is proxyrules' part.
//
// # Who holds what
//
// The shim ([github.com/nodekit/nodekit/runtimeiface/oci/shim]) is started in
// the pod's new namespaces and so holds them; containers join them. There is no
// pause container, no bind-mounted namespace, nothing that outlives the
// processes but files below Root, overlay and tmpfs mounts below Root, cgroups,
// and the bridge.
//
// # User namespaces
//
// The shim of a pod with SandboxSpec.UserNamespace stays in the node's
// namespaces, out of the pod's reach. A child of it is ID 0 of the pod's user
// namespace, owns and holds its network, IPC, UTS and PID namespaces, and has an
// empty root. When it dies, the pod is over.
//
// Files keep their owners by mounts with mapped IDs: layers and image volumes
// are mapped below the overlay, bind mounts by the OCI runtime. That needs Linux
// 5.19, an OCI runtime with the feature idmap (runc since 1.2, crun 1.21), file systems
// that can (ext4, xfs, btrfs; tmpfs since Linux 6.3; not NFS), and every
// directory above the images passable for others. RunSandbox says if one of
// these lacks, CreateContainer names the mount whose file system cannot.
//
// As containerd v2.4 has it, a privileged container of such a pod has every
// capability of its namespace, and of the node's devices only those that are
// open to all. Mounts with "rshared" are refused: none leads from a user
// namespace to the node.
//
// # What is refused
//
// Every list and text of a spec has a limit, far above what pods need; the error
// names the field. Annotations are kept, but not given to OCI runtimes: some take
// orders from them. The Source of a bind mount is taken as the caller means it:
// who lets a pod change a part of that path must pin it before.
//
// # What a kill leaves
//
// A record is on disk before anything is made, and a mark after all is made
// (runtimeiface's caller has no ID before). Open finishes what was begun: a
// sandbox or container without its mark is destroyed, one with it is taken up
// again. The marks outlast a loss of power before a program of theirs is
// started: what was lost never ran. A sandbox whose shim died is NotReady, its
// containers' processes are killed, exits that nobody saw are ExitCodeUnknown.
//
//	Root/lock                            held while a Runtime is open
//	Root/images/                         package image
//	Root/runtime/HANDLER/                the OCI runtime's own state
//	Root/sandboxes/ID/record.json        written first
//	Root/sandboxes/ID/committed,stopped  marks
//	Root/sandboxes/ID/lock,sock,shim.log the shim's
//	Root/sandboxes/ID/shm/               the pod's /dev/shm
//	Root/images/containers/ID.volumeN    an image volume of container ID
//	Root/sandboxes/ID/groups/ID          marks of containers made by RunContainers
//	Root/sandboxes/ID/containers/ID/     OCI bundle, record.json, created, started, exit.json
//	Root/network.json                    kernel parameters as they were before
//	Root/cni/                            what libcni remembers of plug-ins' results
//
// # OCI runtimes
//
// Config.RuntimeHandlers names programs with the command line of runc: run, create,
// start, update, delete, exec, with --root before and --bundle, --pid-file,
// --console-socket, --resources, --process, --detach behind. A container is made
// by the call that starts it, as containerd does it too, unless RunContainers or
// an update wants it made before: what the OCI runtime has against it is an error
// of StartContainer, which can be repeated. If the OCI runtime is killed
// meanwhile the container has ended, with ReasonStartError: nobody knows whether
// its program ran, and it shall not run twice. Runc v1.5 and crun
// 1.21 are tested with every promise. What a program can is asked from it at
// Open: filters, mapped IDs and mount options such as "rro" from "features",
// sub-cgroups of an exec from its help. Without those, a command's process is
// moved to its own cgroup once it runs, and what it left behind by then, in a
// session of its own, is not ended with it but with the container.
//
// Crun refuses a machine with v1 hierarchies whose unified one has controllers
// too, whether somebody uses them or not. gVisor's runsc has this command line,
// with its --platform in Config.RuntimeArgs. Kata Containers has had none since
// 2.0, only a shim for containerd: it is for runtimeiface/cri.
//
// A sandbox keeps the path of its handler's program: it can be stopped and
// removed also by an agent that is not configured with that handler any more.
//
// # Streams
//
// The shim holds the streams of containers. Of an attached client it has one end
// of a pipe for each: the pipe, and one piece of 32 KiB, is what a slow client
// can be behind before the program waits. Once the program has ended nothing
// waits, neither log nor exit: what is left, as much as a pipe holds, is kept for
// the client. The streams of an exec, and the connection of a port-forward, are
// the agent's own: the shim makes them and hands them over. A program that is
// attached to goes on when the agent ends; commands of Exec are ended with it.
//
// RunContainers is one call to the shim, which makes all containers at the same
// time, marks them as one, then starts all at the same time.
//
// # Cgroups
//
// On v1, hybrid and v2 alike, the OCI runtime makes a container's cgroup below
// its pod's, in every hierarchy. With Config.CgroupDriver "systemd" a pod has a
// slice and a container a scope, nodekit-ID.scope, which systemd makes when the
// OCI runtime asks for it and drops with its last process. A CgroupParent is then
// the cgroup of a slice, as the kubelet names it:
// /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice.
//
// Where the kernel does not count huge pages, by a controller hugetlb of v1 or of a
// v2 without v1, Resources.HugepageLimits is nothing, as with containerd.
//
// A kill for want of memory ends one process. On v2,
// Resources.Unified["memory.oom.group"] = "1" has the kernel end the container
// whole, its commands as well.
//
// # Network
//
// A bridge has the first address of each of Network.Subnets; each pod gets the
// next free one of each as /32 or /128, with its routes through the bridge's
// address. So each packet between two pods is routed by the host, and rules for
// services see all of them without br_netfilter; and no host answers by ARP or
// NDP for another. Whether the world outside has a way to the pods' addresses is
// for its routers, or for a masquerade (proxyrules). IPv6 addresses are used at
// once, without duplicate address detection: nobody else gives them. Neither
// pods nor bridge take a route from a router that a pod plays.
//
// Open switches nothing; the first pod on the bridge turns on
// net.ipv4.ip_forward, turns off net.ipv4.conf.all.send_redirects and, with an
// IPv6 subnet, turns on net.ipv6.conf.all.forwarding. A node that forwards IPv6
// no longer hears routers, so interfaces with accept_ra 1 get 2; one that comes
// later does not. [Runtime.Purge] puts all of it back.
//
// With Network.CNI, plug-ins make the network of new pods, while ConfDir has a
// configuration: ADD when a sandbox is run, DEL when it is stopped, when ADD
// failed, and after a kill, by what was recorded before ADD; without a namespace
// if that is gone. The addresses are the result's, in its order; its DNS is
// left, as SandboxSpec.DNS says what a pod asks. Plug-ins get the capabilities
// portMappings, dns and io.kubernetes.cri.pod-annotations. A sandbox that plug-ins
// will not give back is tried again at its next stop, before the same pod's next
// sandbox, or at Open. CHECK and GC are not called: GC would end what other
// runtimes have in the same network.
//
// # Ports of the node
//
// SandboxSpec.PortMappings with a HostPort work for TCP, UDP and SCTP, from
// outside, from pods, from the pod itself and from the node, also by 127.0.0.1;
// not by [::1], which the kernel leads nowhere. A HostIP of 0.0.0.0 or :: is
// every address of that family. Askers are seen by their own addresses, but for
// the pod itself and the node's loopback. A port has one pod: ErrInUse names it.
// What processes of the node listen on is not looked at: the pod is in front
// of them. Pods with NamespaceHost have the node's ports anyway, and get none.
//
// On the built-in bridge they are elements of the table
// nodekit-hostport-HASH of nf_tables, HASH being of Root, written by netlink and
// made anew at Open from the records; Purge removes it. It needs Linux 5.2. Its
// rules translate, they do not permit: a firewall's filter is asked as ever.
// While a port answers on 127.0.0.1, the bridge has route_localnet, and the
// table's guard drops what pods send to 127.0.0.0/8 (CVE-2020-8558): who
// flushes the rules of others takes that guard away until the next pod with a
// port, or Open. With CNI, plug-ins make the ports.
//
// # Traps
//
// The shims live in the agent's cgroup: a service manager that kills the whole
// cgroup of the agent (systemd's KillMode=control-group) ends all pods with it.
//
// Told with ErrNotSupported and the field's name: what the OCI runtime was built
// without, such as seccomp.
package oci
