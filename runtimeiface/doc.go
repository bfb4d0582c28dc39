// Package runtimeiface says what a container runtime is, in plain Go values:
// the words are those of the OCI runtime specification, the semantics those of
// the Kubernetes CRI v1, and every promise is written here and is a case in
// package runtimetest.
//
// An agent is written against [Runtime] and runs on any backend: runtimeiface/cri
// speaks to containerd, CRI-O or cri-dockerd, runtimeiface/oci needs no daemon
// at all, runtimetest.Fake needs no kernel.
//
//	id, err := rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
//		Name: "web", Namespace: "default", UID: uid, LogDirectory: dir,
//	})
//	ctr, err := rt.CreateContainer(ctx, id, runtimeiface.ContainerSpec{
//		Name: "app", Image: image.ID, LogPath: "app/0.log",
//	})
//	err = rt.StartContainer(ctx, ctr)
//
// It is not a client for images, volumes or networks in general, and it holds
// no policy: pulling, restarting, naming and clean-up are decided by the caller.
//
// # Promises that hold for every backend
//
//   - Names are identities. A sandbox is (UID, Attempt), a container is
//     (sandbox, Name, Attempt). Running or creating the same identity again
//     gives the ID of the one that is there: a call repeated after a time-out
//     never makes a second instance.
//   - Stopping and removing are idempotent; an unknown ID is a success there.
//     Everywhere else it is [ErrNotFound].
//   - Nothing stops because the caller's process ends. A new caller finds every
//     sandbox and container by listing, with logs complete and the exit codes
//     and times of what ended meanwhile.
//   - An exit code is the process's own, 128+n when signal n ended it, and
//     [ExitCodeUnknown] with [ReasonUnknown] when nobody could see it.
//   - Events are hints that something changed. They may be late, merged or
//     lost; the state that counts comes from status and list calls.
//   - A cancelled context ends the call soon with the context's error; what was
//     begun is finished or undone by the backend, never left half-made for the
//     caller to find.
//
// # Traps
//
//   - An image is named by its ID in ContainerSpec.Image; a tag may have moved
//     between the pull and the create.
//   - SandboxNotReady is final. A sandbox whose runtime-side keeper died is not
//     repaired: remove it and run the next attempt.
package runtimeiface
