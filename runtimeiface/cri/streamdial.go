package cri

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Bounds of what a streaming server may say before there are streams.
const (
	maxHead    = 64 << 10
	maxRefusal = 4 << 10
)

// partingTime is for telling the server that a client leaves.
const partingTime = time.Second

// streams is one SPDY connection to a runtime's streaming server.
type streams struct {
	httpstream.Connection
	raw net.Conn
}

// openStreams goes to the address that the runtime gave and agrees on one of the
// protocols there. It follows no redirect and asks no proxy.
func openStreams(ctx context.Context, address string, protocols ...string) (*streams, error) {
	u, err := streamURL(address)
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runtimeiface.ErrUnavailable, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := raw
	if u.Scheme == "https" {
		conn = tls.Client(raw, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	}
	s, err := upgrade(conn, u, protocols)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return s, nil
}

// upgrade makes SPDY of a connection.
func upgrade(conn net.Conn, u *url.URL, protocols []string) (*streams, error) {
	request := &http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
			httpstream.HeaderConnection:      {httpstream.HeaderUpgrade},
			httpstream.HeaderUpgrade:         {spdy.HeaderSpdy31},
			httpstream.HeaderProtocolVersion: protocols,
		},
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxHead}
	reader := bufio.NewReader(head)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(response.Header.Get(httpstream.HeaderUpgrade), spdy.HeaderSpdy31) {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
		return nil, fmt.Errorf("%w: the streaming server does not speak SPDY: %s: %s",
			runtimeiface.ErrNotSupported, response.Status, strings.TrimSpace(string(text)))
	}
	got := response.Header.Get(httpstream.HeaderProtocolVersion)
	spoken := false
	for _, p := range protocols {
		spoken = spoken || p == got
	}
	if !spoken {
		return nil, fmt.Errorf("%w: the streaming server speaks %q, not %s", runtimeiface.ErrNotSupported, got, strings.Join(protocols, ", "))
	}
	head.N = math.MaxInt64
	connection, err := spdy.NewClientConnection(&readFirst{Conn: conn, reader: reader})
	if err != nil {
		return nil, err
	}
	return &streams{Connection: connection, raw: conn}, nil
}

// readFirst is a connection of which some has been read already.
type readFirst struct {
	net.Conn
	reader io.Reader
}

func (c *readFirst) Read(p []byte) (int, error) { return c.reader.Read(p) }

// create opens one stream. A server that does not answer cannot hold the caller:
// the wait goes on without it, for at most half a minute.
func (s *streams) create(ctx context.Context, name string, headers http.Header) (httpstream.Stream, error) {
	type result struct {
		stream httpstream.Stream
		err    error
	}
	done := make(chan result, 1)
	go func() {
		stream, err := s.CreateStream(headers)
		done <- result{stream, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.CloseChan():
		// The answer may have come with the end, and be looked at just now.
		select {
		case r = <-done:
		case <-time.After(partingTime):
			r.err = io.ErrUnexpectedEOF
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("open stream %s: %w: %w", name, runtimeiface.ErrUnavailable, r.err)
	}
	return r.stream, nil
}

// close ends every stream and waits for the one who reads from the connection.
func (s *streams) close() {
	_ = s.raw.SetWriteDeadline(time.Now().Add(partingTime))
	_ = s.Connection.Close()
	_ = s.raw.Close()
	<-s.CloseChan()
}

// streamURL lets through addresses of this node alone, where the runtime is:
//
//	http://127.0.0.1:36101/exec/Xj2jKqPf
//	//[::]:36101/cri/exec/Xj2jKqPf       (cri-dockerd v0.4.3)
func streamURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("address of the streams: %w", err)
	}
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	refuse := func(why string) (*url.URL, error) {
		return nil, fmt.Errorf("%w: the runtime's streams are at %q, which %s", runtimeiface.ErrNotSupported, u.Redacted(), why)
	}
	host := u.Hostname()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("is neither http nor https")
	case u.Port() == "" || u.User != nil:
		return refuse("has no port, or a user")
	case host == "localhost":
		return u, nil
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return refuse("is a name")
	case ip.IsUnspecified() && ip.Is4():
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	case ip.IsUnspecified():
		u.Host = net.JoinHostPort("::1", u.Port())
		if !ownAddress(netip.IPv6Loopback()) { // without IPv6, [::] is every address of IPv4
			u.Host = net.JoinHostPort("127.0.0.1", u.Port())
		}
	case !ip.IsLoopback() && !ownAddress(ip):
		return refuse("is not this node")
	}
	return u, nil
}

func ownAddress(ip netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if have, ok := netip.AddrFromSlice(n.IP); ok && have.Unmap() == ip.Unmap().WithZone("") {
				return true
			}
		}
	}
	return false
}
