package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"

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
	// ErrUnauthorized: the registry refuses these credentials, or none. The
	// text says which could not be read or used (ErrNotSupported as well).
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

// chain joins errors on one line.
func chain(errs []error) error {
	var all error
	for _, err := range errs {
		switch {
		case all == nil:
			all = err
		case err != nil:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// translate marks errors of the disk. An error of ctx stays as it is.
func translate(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, ErrRefused), errors.Is(err, ErrCorrupt), errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return mark(ErrDiskFull, err)
	}
	return err
}

// maxText is what a registry may add to an error.
const maxText = 500

// A registryError is what a registry, or the way there, did wrong. It wraps
// nothing but its kind: what is below may hold credentials.
type registryError struct {
	kind   error
	text   string
	status int           // of HTTP, or 0
	after  time.Duration // what a busy registry asks to wait, or 0
}

func (e *registryError) Error() string { return e.kind.Error() + ": " + e.text }

func (e *registryError) Unwrap() error { return e.kind }

// fromRegistry makes a registryError, free of secrets, of what the client of
// registries gives. An error of ctx stays one.
func fromRegistry(err error, secrets []string) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	e := &registryError{kind: ErrUnauthorized, text: err.Error()} // no way to log in
	var status *transport.Error
	var busy *busyError
	// Not net.Error, which every errno of the disk is too.
	var netErr *net.OpError
	var urlErr *url.Error
	switch {
	case errors.As(err, &status):
		e.status, e.kind, e.text = status.StatusCode, kindOfStatus(status.StatusCode), statusText(status)
	case errors.As(err, &netErr), errors.As(err, &urlErr), errors.Is(err, io.ErrUnexpectedEOF):
		e.kind = ErrUnavailable
	}
	if errors.As(err, &busy) {
		e.after = busy.after
	}
	e.text = redact(e.text, secrets)
	return e
}

// statusText leaves out what a server says beside the codes and messages of
// distribution-spec v1.1.
func statusText(e *transport.Error) string {
	text := fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
	if e.Request != nil {
		text = fmt.Sprintf("%s %s: %s", e.Request.Method, e.Request.URL, text)
	}
	for _, d := range e.Errors {
		text += fmt.Sprintf(": %s: %s", d.Code, d.Message)
	}
	return text
}

var (
	urlQuery = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)
	// Tokens that a registry gave and says again.
	bearer   = regexp.MustCompile(`(?i)\b(bearer|basic) [\w.~+/=-]+`)
	webToken = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+(\.[\w-]*)?`)
	urlUser  = regexp.MustCompile(`(https?://)[^\s"/@]*@`)
)

// redact takes secrets out of a text, and what may be one: the queries of URLs,
// which sign redirects, and all but the first line, which quotes answers.
func redact(text string, secrets []string) string {
	text, _, _ = strings.Cut(text, "\n")
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "[redacted]")
		text = strings.ReplaceAll(text, url.QueryEscape(s), "[redacted]")
	}
	text = bearer.ReplaceAllString(text, "$1 [redacted]")
	text = webToken.ReplaceAllString(text, "[redacted]")
	text = urlUser.ReplaceAllString(text, "$1")
	text = urlQuery.ReplaceAllString(text, "$1")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
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
