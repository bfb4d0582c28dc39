// Package image keeps container images on disk and mounts them: it pulls from
// a registry, verifies every byte by digest, unpacks layers where a hostile
// archive can do no harm, and gives each container a root file system of its
// own by overlay.
//
// It does not run containers, build or push images, or decide when an image
// is pulled or collected: the runtime above it does.
//
//	store, err := image.Open(image.Config{Root: "/var/lib/nodekit/images"})
//	if err != nil { ... }
//	defer store.Close()
//	img, err := store.Pull(ctx, "registry.k8s.io/pause:3.10", image.PullOptions{})
//	if err != nil { ... }
//	rootfs, err := store.Mount(ctx, "container-1", img.ID, image.MountOptions{})
//	if err != nil { ... }
//	// run a process in rootfs with img.Config
//	err = store.Unmount("container-1")
//
// # On disk
//
//	Root/lock             held while a Store is open
//	Root/images.json      which images there are: the only truth, replaced whole
//	Root/layers/ALGO-HEX  unpacked layers by diff ID (fs/ and layer.json), shared by images
//	Root/ingest/          downloads, resumed by the next pull of the same layer
//	Root/containers/ID    mount.json, upper/, work/, rootfs/ of one container
//	Root/tmp/             what is being made or removed; emptied by Open
//
// A layer is unpacked in tmp, flushed by syncfs and then renamed into layers;
// images.json is written, flushed and renamed after all layers of an image are
// there. So a process killed at any point leaves either the whole image or
// none, and nothing half-written is ever read. What a kill leaves in tmp goes
// at the next Open; a partial download or a layer without image is kept an
// hour for the next pull, then goes.
//
// # Traps
//
// Layers are unpacked as root with the owners, modes, extended attributes
// (security.capability, user.*, POSIX ACLs) and device nodes that they state.
// Device nodes are inert only under a devices cgroup: run containers with one.
//
// A layer is unpacked by itself, as Docker does, so a layer that writes
// through a directory symlink of a lower layer shadows the symlink.
//
// Mounts outlive the Store and the process. After a restart, [Store.Reap]
// removes those whose container nobody knows.
package image
