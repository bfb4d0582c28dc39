package statusserver_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/statusserver"
)

func TestNewReportsAllBadFieldsTogether(t *testing.T) {
	g := NewWithT(t)
	_, err := statusserver.New(statusserver.Config{
		Listeners: []statusserver.Listener{
			{Address: "127.0.0.1:0"},
			{Address: ":80", Authorizer: statusserver.LoopbackOnly{}},
			{Network: "unix", Address: "relative.sock", Authorizer: statusserver.LoopbackOnly{}},
			{Network: "udp", Address: "127.0.0.1:1", Authorizer: statusserver.LoopbackOnly{}},
			{Authorizer: statusserver.LoopbackOnly{}},
		},
		Metrics:        statusserver.MetricsFunc(func(context.Context, io.Writer) error { return nil }),
		MetricsHandler: http.NotFoundHandler(),
		Checks: []statusserver.Check{
			{Name: "ping", Check: func(context.Context) error { return nil }},
			{Name: "../x", Check: func(context.Context) error { return nil }},
			{Name: "loop"},
		},
		MaxStreams:          -1,
		MaxStreamsPerClient: -1,
		NodeName:            "a\nb",
	})
	for _, want := range []string{
		"Listeners[0]: no authorizer", "Listeners[1]: address", "Listeners[2]: address", "Listeners[3]: network", "Listeners[4]: address",
		"both Metrics and MetricsHandler", `Checks[0].Name: "ping" is taken`, "Checks[1].Name", "Checks[2].Check: required",
		"MaxStreams:", "MaxStreamsPerClient:", "NodeName:",
	} {
		g.Expect(err).To(MatchError(ContainSubstring(want)))
	}
}

func TestAuthorizers(t *testing.T) {
	loopback := statusserver.Attributes{Verb: "get", Peer: addrPort("127.0.0.1:5"), Host: "localhost:10255", PeerUID: -1}
	with := func(change func(*statusserver.Attributes)) statusserver.Attributes {
		a := loopback
		change(&a)
		return a
	}
	only := statusserver.LoopbackOnly{Hosts: []string{"node-a"}}
	for _, c := range []struct {
		name  string
		authz statusserver.Authorizer
		a     statusserver.Attributes
		allow bool
	}{
		{"loopback", only, loopback, true},
		{"IPv6 loopback", only, with(func(a *statusserver.Attributes) { a.Peer = addrPort("[::1]:5"); a.Host = "[::1]:10255" }), true},
		{"mapped loopback", only, with(func(a *statusserver.Attributes) { a.Peer = addrPort("[::ffff:127.0.0.1]:5") }), true},
		{"a name of the listener", only, with(func(a *statusserver.Attributes) { a.Host = "node-a" }), true},
		{"DNS rebinding", only, with(func(a *statusserver.Attributes) { a.Host = "evil.example:10255" }), false},
		{"a Host of another machine", only, with(func(a *statusserver.Attributes) { a.Host = "192.0.2.1" }), false},
		{"no Host", only, with(func(a *statusserver.Attributes) { a.Host = "" }), false},
		// CVE-2020-8558: neighbours reach 127.0.0.1 through route_localnet.
		{"CVE-2020-8558 neighbour", only, with(func(a *statusserver.Attributes) { a.Peer = addrPort("10.0.0.9:5") }), false},
		{"no peer", only, with(func(a *statusserver.Attributes) { a.Peer = addrPort("") }), false},
		{"unix of root", only, statusserver.Attributes{Unix: true, PeerUID: 0}, true},
		{"unix of a stranger", only, statusserver.Attributes{Unix: true, PeerUID: 54321}, false},
		{"unix of someone unknown, behind 0600", only, statusserver.Attributes{Unix: true, PeerUID: -1}, true},
		{"read", statusserver.ReadOnly{}, loopback, true},
		{"kubernetes#136550 create", statusserver.ReadOnly{}, with(func(a *statusserver.Attributes) { a.Verb = "create" }), false},
		{"no verb", statusserver.ReadOnly{}, statusserver.Attributes{}, false},
		{"every of none", statusserver.Every{}, loopback, false},
		{"every", statusserver.Every{only, statusserver.ReadOnly{}}, loopback, true},
		{"every but one", statusserver.Every{only, statusserver.ReadOnly{}}, with(func(a *statusserver.Attributes) { a.Verb = "create" }), false},
	} {
		err := c.authz.Authorize(t.Context(), c.a)
		g := NewWithT(t)
		if c.allow {
			g.Expect(err).NotTo(HaveOccurred(), c.name)
		} else {
			g.Expect(err).To(MatchError(statusserver.ErrForbidden), c.name)
		}
	}
}
