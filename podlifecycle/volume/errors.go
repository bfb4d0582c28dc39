package volume

import "errors"

// Errors that callers branch on.
var (
	// ErrMissing: an object, or a key of one, that a volume refers to is not there.
	ErrMissing = errors.New("not found")
	// ErrMounted: something is still mounted below a pod's directory.
	ErrMounted = errors.New("still mounted")
	// ErrEscape: a path leaves its volume.
	ErrEscape = errors.New("leaves its volume")
	// ErrHostPath: the path on the host is not what hostPath.type asks for.
	ErrHostPath = errors.New("host path is not of the type asked for")
	// ErrNotSupported: this kernel, or this package, cannot do it.
	ErrNotSupported = errors.New("not supported")
	// ErrInvalid: a name or UID cannot be part of a path.
	ErrInvalid = errors.New("invalid name")
)

// Error says which volume could not be made or mounted, and why.
type Error struct {
	// Pod as namespace/name.
	Pod string
	// Field is the path in the pod, such as spec.volumes[1].configMap or
	// spec.containers[0].volumeMounts[2].subPath.
	Field string
	// Volume by name.
	Volume string
	// Err is the cause.
	Err error
}

// Error names pod, field and volume:
//
//	pod default/web: spec.volumes[1].configMap: volume settings: ConfigMap default/web: not found
func (e *Error) Error() string {
	return "pod " + e.Pod + ": " + e.Field + ": volume " + e.Volume + ": " + e.Err.Error()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }
