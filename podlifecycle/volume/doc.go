// Package volume gives pods their files: emptyDir (on disk or in memory),
// hostPath, configMap, secret, downwardAPI and projected volumes, as directories
// on the node and as mounts for a container.
//
//	volumes, err := volume.New(volume.Config{Root: "/var/lib/nodekit"})
//	...
//	err = volumes.Setup(ctx, pod, set)            // before the pod's containers
//	spec.Mounts, err = volumes.Mounts(ctx, pod, container, environ)
//	changed, err := volumes.Update(ctx, pod, set) // when ConfigMaps or Secrets changed
//	err = volumes.Teardown(ctx, pod.UID)          // when the last container is gone
//
// An image volume is only named: the runtime mounts it, see Mounts. Network
// volumes, claims and CSI are for a Plugin of the agent's. Tokens are not known;
// manifest.Unsupported lists what is not.
//
// # On the node
//
//	Root/pods/UID/volumes/kubernetes.io~configmap/NAME/..data -> ..1234567890
//	Root/pods/UID/volumes/nodekit~nfs/NAME           what a Plugin mounted
//	Root/pods/UID/volume-subpaths/NAME/CONTAINER/0     a bind mount
//
// The layout is the kubelet's. Content appears in one step: a new directory is
// written whole, then the link ..data is renamed over. Secrets, downward API and
// projected volumes lie in memory (tmpfs without swap, where the kernel has it).
//
// # Traps
//
//   - Memory volumes and subPath need root on Linux, and openat2 (Linux 5.6).
//   - A container with a subPath sees no updates of the volume: it holds the file of
//     when it was created. Kubernetes does the same.
//   - A subPath is made as a directory if it is missing, but not in volumes of
//     content: there it is ErrMissing, so that a key that comes late is not hidden by a directory.
//   - Containers must be gone before Teardown; what is busy is ErrMounted, and
//     nothing is removed. Call it again.
package volume
