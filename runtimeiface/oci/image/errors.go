package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Errors that callers branch on, by errors.Is.
var (
	// ErrNotFound: no such image or container here, or the registry has no
	// image of that name.
	ErrNotFound = errors.New("not found")
	// ErrInUse: the image is the root of a container, or the container has
	// another image.
	ErrInUse = errors.New("image in use")
	// ErrInvalidName: not an image reference (the kubelet's InvalidImageName).
	ErrInvalidName = errors.New("invalid image name")
	// ErrLocked: another Store, here or in another process, has this Root.
	ErrLocked = errors.New("image store is in use by another process")
	// ErrNotSupported: this operating system or kernel cannot.
	ErrNotSupported = errors.New("not supported")

	// ErrUnavailable: the registry does not answer, or answers that it is
	// busy or broken. Worth another try later.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrUnauthorized: the registry refuses these credentials, or none.
	ErrUnauthorized = errors.New("registry refuses access")
	// ErrCorrupt: content that is not what its digest, its size or its media
	// type says.
	ErrCorrupt = errors.New("corrupt content")
	// ErrRefused: a layer that reaches outside its root or passes a limit.
	ErrRefused = errors.New("layer refused")
	// ErrDiskFull: no room, or less than Config.MinFreeBytes would be left.
	ErrDiskFull = errors.New("disk full")
	// ErrNoPlatform: the image has no variant for the platform.
	ErrNoPlatform = errors.New("no image for this platform")
)

// A PullError says which image and which layer could not be pulled, and why:
// its text is a chain of causes, its Unwrap leads to the errors above.
type PullError struct {
	Ref   string // as given to Pull
	Layer string // digest of the layer's blob; empty when it was no layer
	Err   error
}

// Error reads: pull image web:1: layer sha256:...: download: registry unavailable: ...
func (e *PullError) Error() string {
	if e.Layer == "" {
		return fmt.Sprintf("pull image %q: %v", e.Ref, e.Err)
	}
	return fmt.Sprintf("pull image %q: layer %s: %v", e.Ref, e.Layer, e.Err)
}

// Unwrap gives the cause.
func (e *PullError) Unwrap() error { return e.Err }

// mark joins a cause to the sentinel that callers branch on, once.
func mark(kind, err error) error {
	if err == nil || errors.Is(err, kind) {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// translate marks errors of the registry, the network and the disk. An error
// of ctx stays as it is.
func translate(err error) error {
	var status *transport.Error
	// Not net.Error, which every errno of the disk is too.
	var netErr *net.OpError
	var urlErr *url.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, ErrRefused), errors.Is(err, ErrCorrupt), errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return mark(ErrDiskFull, err)
	case errors.As(err, &status):
		return mark(kindOfStatus(status.StatusCode), err)
	case errors.As(err, &netErr), errors.As(err, &urlErr):
		return mark(ErrUnavailable, err)
	}
	return err
}

func kindOfStatus(code int) error {
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return ErrUnauthorized
	case code == http.StatusNotFound:
		return ErrNotFound
	default:
		return ErrUnavailable
	}
}
