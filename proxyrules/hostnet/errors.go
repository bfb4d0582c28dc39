package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrNotSupported is what Open gives where there is no nftables: on other
// systems than Linux, or in a kernel without it.
var ErrNotSupported = errors.New("host network rules are not supported")

// ErrForeignRoute: another program's route to the same network is there.
var ErrForeignRoute = errors.New("another program's route is in the way")

// RouteError is a route that could not be made or removed. It wraps the kernel's
// error, or ErrForeignRoute.
type RouteError struct {
	To  netip.Prefix
	Via netip.Addr
	Err error
}

func (e *RouteError) Error() string { return fmt.Sprintf("route to %s via %s: %v", e.To, e.Via, e.Err) }

func (e *RouteError) Unwrap() error { return e.Err }
