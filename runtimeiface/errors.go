package runtimeiface

import "errors"

// Errors that every backend translates its own into. Test with errors.Is; the
// wrapped chain says which object and why.
var (
	// ErrNotFound: no sandbox, container or image has that ID or reference.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request itself is wrong; the text names the field.
	ErrInvalid = errors.New("invalid")
	// ErrInvalidImageName: the reference cannot be parsed. It is an ErrInvalid
	// of its own because Kubernetes reports it as InvalidImageName.
	ErrInvalidImageName = errors.New("invalid image name")
	// ErrInUse: the object is needed by another (an image by a container).
	ErrInUse = errors.New("in use")
	// ErrNotRunning: the call needs a running container or a ready sandbox.
	ErrNotRunning = errors.New("not running")
	// ErrNotSupported: this backend or this kernel has no such ability.
	ErrNotSupported = errors.New("not supported")
	// ErrUnavailable: the runtime or the registry did not answer; try again later.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnauthorized: the registry refused the credentials, or wants some.
	ErrUnauthorized = errors.New("unauthorized")
)
