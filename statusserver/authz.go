package statusserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Attributes are what an Authorizer judges by: who asks, and for what, in the
// words of Kubernetes authorization. Verb and resource come from the endpoint,
// never from the HTTP method (kubernetes#136550).
type Attributes struct {
	// Verb is get for all that only shows, create for what changes something.
	Verb string
	// Resource is always nodes.
	Resource string
	// Subresource is pods, spec, stats, metrics, proxy or healthz.
	Subresource string
	// Path is the path of the URL.
	Path string
	// Host is the Host header, with the port if it had one.
	Host string
	// Peer is the other end of a TCP connection; invalid for a unix socket.
	Peer netip.AddrPort
	// Unix says that the request came through a unix socket.
	Unix bool
	// PeerUID is the user at the other end of a unix socket, -1 when unknown.
	PeerUID int
}

// An Authorizer says who may ask for what. nil allows; each error refuses, and
// its text is sent to the client. It must be safe for concurrent use.
type Authorizer interface {
	Authorize(ctx context.Context, a Attributes) error
}

// Every allows what each of its members allows. Without members it refuses.
type Every []Authorizer

// Authorize asks the members in order, up to the first that refuses.
func (e Every) Authorize(ctx context.Context, a Attributes) error {
	if len(e) == 0 {
		return fmt.Errorf("%w: no authorizer allows this", ErrForbidden)
	}
	for _, member := range e {
		if err := member.Authorize(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// ReadOnly allows the verbs get, list and watch and refuses the rest, so that
// endpoints to come that change something stay shut.
type ReadOnly struct{}

// Authorize looks at the verb alone.
func (ReadOnly) Authorize(_ context.Context, a Attributes) error {
	switch a.Verb {
	case "get", "list", "watch":
		return nil
	}
	return fmt.Errorf("%w: this listener is read-only and the request asks to %s %s/%s", ErrForbidden, a.Verb, a.Resource, a.Subresource)
}

// LoopbackOnly allows processes of this machine: TCP peers with a loopback
// address, and unix peers that are root or this process's own user. It refuses
// a TCP request whose Host header is no loopback address or known name, so that
// a web page cannot get in by a DNS name of its own that turns to 127.0.0.1
// (DNS rebinding). Every user of the machine may then read what the server
// shows, logs included; a unix socket keeps them out.
type LoopbackOnly struct {
	// Hosts are more names, without ports, that Host may have besides localhost.
	Hosts []string
}

// Authorize looks at the peer and at Host.
func (l LoopbackOnly) Authorize(_ context.Context, a Attributes) error {
	if a.Unix {
		if a.PeerUID > 0 && a.PeerUID != os.Geteuid() {
			return fmt.Errorf("%w: user %d is neither root nor the user of this server", ErrForbidden, a.PeerUID)
		}
		return nil
	}
	if !a.Peer.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("%w: %s is not a loopback address", ErrForbidden, a.Peer.Addr())
	}
	host := hostname(a.Host)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	if host != "localhost" && !slices.Contains(l.Hosts, host) {
		return fmt.Errorf("%w: Host %q is not a name of this listener", ErrForbidden, a.Host)
	}
	return nil
}

// hostname gives the lower-case host of a Host header, without port, brackets
// or final dot.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

var (
	_ Authorizer = Every(nil)
	_ Authorizer = ReadOnly{}
	_ Authorizer = LoopbackOnly{}
)
