package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/proxyrules/internal/kernel"
)

var errClosed = errors.New("hostnet: closed")

// Host keeps the rules and routes of one network namespace. Its methods may be
// called at the same time; they wait for each other.
type Host struct {
	config Config

	mu     sync.Mutex
	netNS  *os.File
	routes *netlink.Handle
	closed bool
}

// Open connects to the kernel. It changes nothing. The error wraps
// ErrNotSupported if the kernel has no nf_tables.
func Open(config Config) (*Host, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	own, err := kernel.OpenNetNS(config.NetNS)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	h := &Host{config: config, netNS: own}
	if h.routes, err = netlink.NewHandleAt(netns.NsHandle(own.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("open routes: %w", err), own.Close())
	}
	if _, err := h.readTable(); err != nil {
		for _, errno := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
			if errors.Is(err, errno) {
				err = fmt.Errorf("%w: %w", ErrNotSupported, err)
				break
			}
		}
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close lets go of the kernel and leaves rules and routes in place.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	h.routes.Close()
	return h.netNS.Close()
}

// Sync brings the node to what is wanted, and writes only what is not so yet. An
// error names all that is wrong with want, and then nothing was done; or what
// could not be done, and then the rest was. Routes that fail are *RouteError.
func (h *Host) Sync(ctx context.Context, want Want) (Stats, error) {
	want, err := want.normal()
	if err != nil {
		return Stats{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return Stats{}, errClosed
	}
	var stats Stats
	if err := ctx.Err(); err != nil {
		return stats, err
	}
	written, ruled := h.syncRules(want)
	changed, routed := h.syncRoutes(want.Routes)
	stats.Rules, stats.Routes = written, changed
	if written || changed > 0 {
		h.config.Logger.Info("host network changed", "table", h.config.Table, "rules", written, "routes", changed)
	}
	return stats, errors.Join(ruled, routed)
}

// Cleanup removes the table and all routes of our protocol, whoever made them.
// Nothing there is no error.
func (h *Host) Cleanup(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := h.syncRoutes(nil)
	return errors.Join(h.deleteTable(), err)
}
