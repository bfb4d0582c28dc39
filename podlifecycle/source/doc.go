// Package source reads what shall run: Pods with the ConfigMaps, Secrets and
// Services beside them, so that one node needs no control plane. It comes from a
// [Directory] of manifests, from a URL ([HTTP]), from a stream such as standard
// input ([Reader]) or from the program itself ([Channel]); [Merge] makes one of
// several.
//
//	dir, err := source.New(source.Config{Path: "/etc/nodekit/manifests", NodeName: "n1"})
//	if err != nil {
//		return err
//	}
//	return dir.Run(ctx, func(set source.Set) {
//		for _, problem := range set.Problems {
//			log.Info("manifest refused", "problem", problem.Error())
//		}
//		manager.Set(set)
//	})
//
// Each update is the whole set, never a difference. Pods in it are defaulted,
// valid and without a field that nodekit would ignore; whatever is wrong is a
// problem that names file, object and field, and everything else goes on.
//
// # Several sources
//
// What a source owns, only that source takes back. As long as one of them has
// not spoken (a server that does not answer, a directory that cannot be read)
// Set.Waiting names it, and podlifecycle's Manager ends no pod for being in no
// set: after a restart of the agent, a slow source costs nothing.
//
//	merged, err := source.NewMerge(
//		source.Part{Name: "manifests", Source: directory},
//		source.Part{Name: "fleet", Source: fleet}, // an HTTP source
//	)
//
// # Identity
//
// An edit does what kubectl apply would. A pod's UID is metadata.uid if the
// manifest has one, else a hash of node, file or URL, namespace, name and that part of
// the specification which may not be changed in place. So a new image, label or
// activeDeadlineSeconds, or an ephemeral container, reaches the running pod, and any
// other edit replaces it.
// A manifest that names its metadata.uid says that it stays the same pod: then
// other resources of CPU and memory are a resize in place.
//
// # Traps
//
//   - A file that turns bad keeps what was known from it before, a file that
//     goes away ends its pods.
//   - Files whose names begin with "." or "#" or end in "~", ".swp" or ".swx" are not manifests,
//     nor are sub-directories.
//   - Write a new file beside and rename it, if you can. One written in place is
//     read once it is closed, and after 200 ms as it is. Only Linux tells that;
//     elsewhere a directory is read every second, as it is.
//   - Nobody logs a Set's Problems but its receiver.
package source
