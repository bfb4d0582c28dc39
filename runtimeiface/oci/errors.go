package oci

import (
	"errors"
	"fmt"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var (
	// ErrLocked: another Runtime, here or in another process, has this Root.
	ErrLocked = errors.New("oci: Root is in use by another agent")

	errClosed = fmt.Errorf("oci: closed: %w", runtimeiface.ErrUnavailable)
)

func invalid(field, why string) error {
	return fmt.Errorf("%w: %s %s", runtimeiface.ErrInvalid, field, why)
}

func notSupported(field, why string) error {
	return fmt.Errorf("%w: %s %s", runtimeiface.ErrNotSupported, field, why)
}

// translate marks the image store's errors with those of runtimeiface.
func translate(err error) error {
	if err == nil {
		return nil
	}
	for _, pair := range [][2]error{
		{image.ErrInvalidName, runtimeiface.ErrInvalidImageName},
		{image.ErrUnauthorized, runtimeiface.ErrUnauthorized},
		{image.ErrUnavailable, runtimeiface.ErrUnavailable},
		{image.ErrNoPlatform, runtimeiface.ErrNotFound},
		{image.ErrNotFound, runtimeiface.ErrNotFound},
		{image.ErrInUse, runtimeiface.ErrInUse},
		{image.ErrNotSupported, runtimeiface.ErrNotSupported},
	} {
		if errors.Is(err, pair[0]) {
			return fmt.Errorf("%w: %w", pair[1], err)
		}
	}
	return err
}
