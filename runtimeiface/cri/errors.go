package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/nodekit/nodekit/runtimeiface"
)

var errClosed = fmt.Errorf("cri: closed: %w", runtimeiface.ErrUnavailable)

func invalid(field, why string) error {
	return fmt.Errorf("%w: %s %s", runtimeiface.ErrInvalid, field, why)
}

func notSupported(field, why string) error {
	return fmt.Errorf("%w: %s %s", runtimeiface.ErrNotSupported, field, why)
}

// translate turns gRPC's errors into those of runtimeiface. ctx is the call's.
func translate(ctx context.Context, err error, act string, args ...any) error {
	if err == nil {
		return nil
	}
	act = fmt.Sprintf(act, args...)
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return fmt.Errorf("%s: %w", act, err)
	}
	// The runtime may answer that its own call was cancelled, in any code.
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s: %w", act, ended)
	}
	var kind error
	switch s.Code() {
	case codes.NotFound:
		kind = runtimeiface.ErrNotFound
	case codes.InvalidArgument, codes.OutOfRange:
		kind = runtimeiface.ErrInvalid
	case codes.Unimplemented:
		kind = runtimeiface.ErrNotSupported
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		kind = runtimeiface.ErrUnavailable
	case codes.AlreadyExists:
		kind = runtimeiface.ErrInUse
	default:
		return fmt.Errorf("%s: %s", act, s.Message())
	}
	return fmt.Errorf("%s: %w: %s", act, kind, s.Message())
}

// pullError tells apart what runtimes tell in text alone.
func pullError(ctx context.Context, err error, ref string) error {
	if ctx.Err() != nil {
		return translate(ctx, err, "pull %s", ref)
	}
	text := strings.ToLower(status.Convert(err).Message())
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	var kind error
	switch {
	case has("invalid reference format", "failed to parse image reference"):
		kind = runtimeiface.ErrInvalidImageName
	case has("unauthorized", "authorization failed", "no basic auth credentials", "insufficient_scope",
		"access denied", "authentication required", "status code 401", "statuscode: 401", "403 forbidden", "incorrect username or password"):
		kind = runtimeiface.ErrUnauthorized
	case status.Code(err) == codes.NotFound, has("manifest unknown", "name unknown", ": not found", "manifest_unknown", "name_unknown"):
		kind = runtimeiface.ErrNotFound
	case has(strings.ToLower(crierrors.ErrRegistryUnavailable.Error()), "connection refused", "no such host", "i/o timeout",
		"dial tcp", "tls handshake", "connection reset", "no route to host", "network is unreachable", "unexpected eof",
		"too many requests", "500 internal", "502 bad gateway", "503 service", "504 gateway"):
		kind = runtimeiface.ErrUnavailable
	default:
		return translate(ctx, err, "pull %s", ref)
	}
	return fmt.Errorf("pull %s: %w: %s", ref, kind, status.Convert(err).Message())
}

func isNotFound(err error) bool {
	return status.Code(err) == codes.NotFound || errors.Is(err, runtimeiface.ErrNotFound)
}

// lost tells that it is not known what the runtime did.
func lost(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return true
	}
	return false
}

// reserved tells that the name belongs to a call in progress, or to one whose
// work is still being undone.
func reserved(err error) bool {
	text := status.Convert(err).Message()
	return status.Code(err) == codes.AlreadyExists || strings.Contains(text, "is reserved for") ||
		strings.Contains(text, "name is reserved") || strings.Contains(text, "operation is currently in progress")
}
