// Package podlifecycle makes desired pods run: what the kubelet does to a pod,
// as a pure decision and as a manager around it.
//
// [Plan] takes a pod, what is observed of it and the time, and gives the
// actions to begin, the status to report, when to look again, and a rule and a
// reason for each. It touches nothing, so an agent that has no containers can
// use it, and what would happen can be shown before it does. [Manager] observes
// a container runtime, plans, acts, records and sleeps, with one worker for
// each pod:
//
//	m, err := podlifecycle.New(podlifecycle.Config{
//		Runtime: rt,                 // any runtimeiface.Runtime
//		Root:    "/var/lib/agent",
//		OnStatus: func(pod *corev1.Pod) { report(pod) },
//	})
//	go dir.Run(ctx, m.Set)           // dir is a source.Directory
//	err = m.Run(ctx)                 // until ctx ends; the pods run on
//
// [Manager.Why] tells why a pod is as it is, which decisions led there, and
// what will happen next and when; [Manager.Events] tells what happened as the
// kubelet's events would. [Manager.StopAll] ends everything.
//
// It pulls no images, makes no containers and mounts nothing by itself: that is
// the runtime's and package volume's. It does not schedule: every pod of the set
// is this node's.
//
// # What is behaved like
//
// The kubelet of Kubernetes v1.37.0: start order with init containers and
// sidecars, restart policies and their back-off, probes, hooks, graceful
// termination, phases, conditions and reasons. Fields that are not honoured are
// refused by path when a manifest is read, see manifest.Unsupported. Where
// nodekit differs:
//
//   - Images are pulled for all containers of a pod that may start, in
//     parallel; containers without a postStart hook start at once and not one
//     after the other.
//   - A pod whose host port is taken stays Pending until it is free, because
//     there is no scheduler that would have held it back. So does one that fits
//     as soon as pods that end have made room. Any other that the node cannot
//     take is Failed with the kubelet's reason, see package admission.
//   - Pods are evicted if Config.Eviction is set; without it, and in it without Disk,
//     limits of what a pod may write are told of by Why and not kept.
//   - A manifest that is no valid pod is shown as a Pending pod with reason
//     InvalidManifest.
//   - A terminal phase is remembered across reboots.
//   - An image that this agent pulled with a pod's secret is for pods with that
//     secret, or one that holds the same; any other has to pull it for itself. So has
//     the kubelet (KubeletEnsureSecretPulledImages, NeverVerifyPreloadedImages):
//     images that are there for another reason everybody may use.
//   - A pull goes on with the next credential only where the registry refuses or
//     hides the image. A pull secret that is missing or bad is told in the status.
//   - A container that ended because a rule of another restarted all has its own
//     exit in its last state, if it had one; the kubelet shows 137 for all. All
//     restart at most once a second.
//   - A pod that comes while the node shuts down is not Failed but Pending, with
//     reason NodeShutdown, until the shutdown is called off or the agent starts
//     anew. Pods that ended for a shutdown that was called off run again at once.
//
// # Resizing
//
// CPU and memory of containers, and of the pod as a whole, change in place when
// a set has the same UID with other resources: from an API, a Channel, or a
// manifest that names its metadata.uid. Without one the UID comes from the
// content, and other resources make another pod, as with the kubelet's static
// pods. What the node grants is remembered, so is what holds already; a resize
// that does not fit, that would change the QoS class, or that goes below the
// memory in use is told in PodResizePending and PodResizeInProgress and by Why.
// A limit that is taken away, huge pages, and the size of a memory volume do not
// change in place.
//
// # Ephemeral containers
//
// They join a running pod when they are added to it, run once, and count neither
// for its phase nor its readiness; with a target they see its processes. An edit
// of a manifest may add them. One that is taken away again is ended.
//
// # User namespaces
//
// A pod with hostUsers false has 65536 user and group IDs of Config.UserIDs as
// long as anything of it is there. Files of its volumes keep their owners as the
// pod sees them, by mounts with mapped IDs, where the runtime and the file
// system can; where not, the container is not made, and the error says why.
//
// # Volumes of others
//
// Network file systems, claims and CSI are made by plug-ins of the agent's,
// Config.VolumePlugins: see volume.Plugin. Without one such a pod is refused by path.
//
// # AppArmor and SELinux
//
// AppArmor profiles are set by the runtime; where the kernel has no AppArmor a pod
// that asks for one is Failed with reason AppArmor. SELinux labels of processes are
// a CRI runtime's to set; where the kernel has no SELinux they mean nothing, where it
// has, runtimeiface/oci refuses them. Files of volumes are not labelled.
//
// # Parts
//
// Sub-packages are the parts, each of use alone: manifest and source read
// desired pods; admission, env, eviction, hostfiles, qos and security are pure;
// volume, probe and cgroup act; credential finds what registries want; imagegc and
// logs keep what pods leave in bounds; shutdown orders the end of a node's pods, and
// shutdown/logind says when; journal remembers.
//
// # Traps
//
//   - The end of Run is not the end of the pods. A new Manager with the same
//     Root and runtime finds them, and ends those that its first Set does not name.
//   - Two Managers must not share a Root, nor a NodeName on one runtime.
//   - Nothing is begun or ended before the first Set: give the first set once all
//     sources have spoken.
//   - OnStatus is called by the pod's worker, which waits for it.
package podlifecycle
