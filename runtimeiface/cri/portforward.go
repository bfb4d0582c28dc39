package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/nodekit/nodekit/runtimeiface"
)

// The protocol of Kubernetes v1.37.0 staging/src/k8s.io/cri-streaming
// pkg/streaming/portforward: a stream for data and one for an error's text.
const protocolForward = "portforward.k8s.io"

// errNotInside: this process cannot reach the sandbox's network by itself.
var errNotInside = errors.New("not within reach")

// halfCloser is a connection one end of which can say its last first.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// PortForward dials in the sandbox's network namespace where this process may
// enter it, and over the runtime's streaming server where not. containerd v2.4.2
// does not tell the pod of the end of what conn gives, and cuts the pod off a
// second later (internal/cri/server/sandbox_portforward_linux.go).
func (r *Runtime) PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	defer func() { _ = conn.Close() }()
	act := fmt.Sprintf("forward to port %d of sandbox %s", port, sandboxID)
	if err := ctx.Err(); err != nil {
		return err
	}
	if port == 0 {
		return fmt.Errorf("%s: %w", act, invalid("port", "is 0"))
	}
	if err := r.begin(); err != nil {
		return err
	}
	defer r.work.Done()
	ctx, cancel := r.untilClosed(ctx)
	defer cancel()
	s, err := r.sandbox(ctx, sandboxID)
	if err != nil {
		return fmt.Errorf("%s: %w", act, err)
	}
	if s.State != runtimeiface.SandboxReady {
		return fmt.Errorf("%s: %w", act, runtimeiface.ErrNotRunning)
	}
	if err = forwardInside(ctx, s, port, conn); errors.Is(err, errNotInside) {
		err = r.forwardStream(ctx, sandboxID, port, conn)
	}
	switch ended := ctx.Err(); {
	case ended != nil:
		return fmt.Errorf("%s: %w", act, ended)
	case err != nil:
		return translate(ctx, err, "%s", act)
	}
	return nil
}

// forwardInside dials the pod itself.
func forwardInside(ctx context.Context, s knownSandbox, port uint16, conn io.ReadWriteCloser) error {
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		pod, err := dialInside(ctx, s.PID, s.ID, net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return carry(ctx, pod.(*net.TCPConn), conn)
		}
		if errors.Is(err, errNotInside) {
			return err
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %w", runtimeiface.ErrUnavailable, errors.Join(errs...))
}

// forwardStream has the runtime dial.
func (r *Runtime) forwardStream(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	response, err := ask(ctx, r, r.rs.PortForward, &api.PortForwardRequest{PodSandboxId: sandboxID, Port: []int32{int32(port)}})
	if err != nil {
		return err
	}
	server, err := openStreams(ctx, response.Url, protocolForward)
	if err != nil {
		return fmt.Errorf("open streams: %w", err)
	}
	var ended sync.Once
	end := func() { ended.Do(server.close) }
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	open := func(kind string) (httpstream.Stream, error) {
		text := strconv.Itoa(int(port))
		return server.create(ctx, kind, http.Header{streamType: {kind}, "port": {text}, "requestID": {"0"}})
	}
	told, err := open("error")
	if err != nil {
		return err
	}
	_ = told.Close() // nothing is said there
	data, err := open("data")
	if err != nil {
		return err
	}
	why := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(told, maxStatus))
		why <- string(text)
	}()
	// The runtime ends the stream once it is through with both ways.
	err = carry(ctx, spdyStream{data}, struct{ io.ReadWriteCloser }{conn})
	patience := time.AfterFunc(partingTime, end)
	defer patience.Stop()
	switch text := <-why; {
	case strings.Contains(text, "connection refused"):
		return fmt.Errorf("%w: %s", runtimeiface.ErrUnavailable, text)
	case text != "":
		return errors.New(text)
	}
	return err
}

// spdyStream closes as a connection does: in SPDY, Close says the last.
type spdyStream struct{ httpstream.Stream }

func (s spdyStream) CloseWrite() error { return s.Stream.Close() }
func (s spdyStream) Close() error      { return s.Reset() }

// carry copies both ways until both have said their last, one is broken, or ctx
// ends. It closes both.
func carry(ctx context.Context, pod halfCloser, conn io.ReadWriteCloser) error {
	var once sync.Once
	var first error
	shut := func(why error) {
		once.Do(func() {
			first = why
			_ = pod.Close()
			_ = conn.Close()
		})
	}
	stop := context.AfterFunc(ctx, func() { shut(ctx.Err()) })
	defer stop()
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, err := io.Copy(pod, conn)
		if err == nil {
			err = pod.CloseWrite()
		}
		if err != nil {
			shut(err)
		}
	}()
	_, err := io.Copy(conn, pod)
	if half, ok := conn.(interface{ CloseWrite() error }); err != nil || !ok || half.CloseWrite() != nil {
		shut(err)
	}
	<-up
	shut(nil)
	return first
}
