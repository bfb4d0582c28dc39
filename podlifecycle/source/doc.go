// Package source reads what shall run from a directory of manifests: Pods with
// the ConfigMaps, Secrets and Services beside them, so that one node needs no
// control plane.
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
// # Identity
//
// An edit does what kubectl apply would. A pod's UID is metadata.uid if the
// manifest has one, else a hash of node, file, namespace, name and that part of
// the specification which may not be changed in place. So a new image, label or
// activeDeadlineSeconds reaches the running pod, and any other edit replaces it.
//
// # Traps
//
//   - A file that turns bad keeps what was known from it before, a file that
//     goes away ends its pods.
//   - Files whose names begin with "." or "#" or end in "~", ".swp" or ".swx" are not manifests,
//     nor are sub-directories.
//   - Write a new file beside and rename it, if you can. One written in place is
//     read once it has been quiet for 10 ms.
//   - Nobody logs a Set's Problems but its receiver.
package source
