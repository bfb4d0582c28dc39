package security

import "errors"

var (
	// ErrNonRoot: the container would run as root, or nobody can tell, against
	// runAsNonRoot. Texts of errors that wrap it are the kubelet's.
	ErrNonRoot = errors.New("runAsNonRoot")
	// ErrSeccomp: the seccomp profile cannot be used.
	ErrSeccomp = errors.New("seccomp profile cannot be used")
)

// nonRootError keeps the kubelet's text as it is.
type nonRootError string

func (e nonRootError) Error() string { return string(e) }
func (e nonRootError) Unwrap() error { return ErrNonRoot }
