// Package image keeps container images on disk and mounts them: it pulls from
// a registry, verifies every byte by digest, unpacks layers where a hostile
// archive can do no harm, and gives each container a root file system of its
// own by overlay.
//
// It does not run containers, build or push images, or decide when an image
// is pulled or images are collected: the runtime above it does.
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
//	Root/used/ALGO-HEX    an empty file by image ID; its time is the image's last use
//	Root/containers/ID    mount.json, upper/, work/, rootfs/ of one container
//	Root/tmp/             what is being made or removed; emptied by Open
//
// A layer is unpacked in tmp, flushed by syncfs and then renamed into layers;
// images.json is written, flushed and renamed after all layers of an image are
// there. So a process killed at any point leaves either the whole image or
// none, and nothing half-written is ever read. What goes, goes the other way
// round: the image from images.json, each layer to tmp in one step, then its
// files. What a kill leaves in tmp goes at the next Open; a partial download or
// a layer without image is kept an hour for the next pull, then goes.
//
// # Registries
//
// Credentials, shown as they are or exchanged for a token as the registry asks,
// come from PullOptions.Auth, else from Config.Auth, else from the files of
// Config.AuthFiles. Of a docker config.json, auths counts: its
// keys match as the kubelet has it (a host, "host:port", an URL, a path in front
// of repositories, "*.example.com"), and of all that match the longest is tried
// first, the next when the registry refuses. An entry has auth, or username and
// password, or identitytoken, or registrytoken. Programs that hold credentials
// (credHelpers, credsStore) are not run: a pull that is refused for want of them
// is ErrUnauthorized and ErrNotSupported, and names the key. A file that cannot
// be read is told likewise, and does not keep others from being used.
//
// Credentials go to the host that they are for and to the realm that it names,
// to no host of a redirect, to no mirror, and without TLS only where
// Config.PlainHTTP or Mirror.PlainHTTP allows it. A realm that is a private
// address by number is refused unless the registry has the same. No error and
// no line of the log has credentials, whatever a registry says.
//
// With Config.Mirrors an image and each of its layers come from the first host
// that gives them; a download that broke goes on elsewhere. If all fail the
// error tells the cause of each, and is of the kind of the registry's own.
//
// # Collection
//
//	c, err := store.Collect(ctx, image.CollectPolicy{HighPercent: 85, LowPercent: 80, DryRun: true})
//	for _, u := range c.Images {
//		fmt.Println(u.Names, u.Exclusive, u.Shared, u.LastUsed, u.Containers, u.Kept, u.Collectable)
//	}
//
// [Store.Collect] removes the images that were unused the longest when the file
// system is full to HighPercent, until it is full to LowPercent: as the kubelet
// does, but by the bytes that really go, since images share layers. Layers and
// downloads of pulls that failed go first.
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
