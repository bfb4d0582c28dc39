package statusserver

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
)

var (
	// ErrNotFound is what providers wrap when the pod, container or log that
	// was asked for does not exist: the client gets 404. An error that wraps
	// fs.ErrNotExist counts as well.
	ErrNotFound = errors.New("not found")
	// ErrInvalid is what providers wrap when the request makes no sense to
	// them: the client gets 400.
	ErrInvalid = errors.New("invalid request")
	// ErrForbidden is wrapped by each refusal of the authorizers here. What
	// else an Authorizer returns refuses as well.
	ErrForbidden = errors.New("forbidden")
	// ErrNotSupported says that this platform cannot tell.
	ErrNotSupported = errors.New("not supported on this platform")
)

// statusOf maps an error of a provider to a status code.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
