// Package imagegc decides which images a node removes, and why: the policy of
// the kubelet's image garbage collection as a pure function.
//
//	plan := imagegc.Decide(policy, imagegc.Node{
//		Images: images, Filesystem: fs, Holders: holders, Uses: uses, Now: now,
//	})
//	for _, v := range plan.Verdicts {
//		if v.Remove {
//			err := runtime.RemoveImage(ctx, v.Image.ID) // v.Reason says why
//		}
//	}
//
// Above HighPercent of the file system, images go until LowPercent is reached,
// the longest unused first. With MaxAge, those go too that nobody has used for so
// long, however much room there is. An image that somebody has or wants, one that
// the runtime pins and one that is younger than MinAge never go. podlifecycle.Manager
// does this every 5 minutes; alone it is of use to who drives another runtime.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/images/image_gc_manager.go.
//
// # Traps
//
//   - Image.Size counts layers that other images share. What a removal frees shows
//     when the file system is looked at again: decide again with Node.Begun until
//     Goal is 0 or nothing more may go.
//   - A file system of unknown capacity has no goal.
package imagegc
