package runtimeiface

import "context"

// Runtime is the sum of the roles. A consumer asks for the roles it calls.
type Runtime interface {
	Sandboxes
	Containers
	Images
	Streams
	Logs
	Events

	// Version tells what answers. It fails with ErrUnavailable while the
	// runtime cannot be reached, and so serves as its health check.
	Version(ctx context.Context) (Version, error)
}

// Version names a runtime.
type Version struct {
	// Name of the backend and of what it drives, such as "containerd" or "oci/runc".
	Name string
	// Version of what Name says, free text.
	Version string
	// Scheme stands before "://" in a pod status' containerID, such as "containerd".
	Scheme string
}
