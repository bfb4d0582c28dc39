package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/nodekit/nodekit/runtimeiface"
)

// The protocol of Kubernetes v1.37.0 staging/src/k8s.io/cri-streaming
// pkg/streaming/remotecommand: streams over SPDY, an exit status in JSON on the
// stream "error".
const (
	protocolHeader = "X-Stream-Protocol-Version"
	protocolV4     = "v4.channel.k8s.io"
	streamType     = "streamType"
)

// maxStatus bounds the exit status.
const maxStatus = 64 << 10

// execStream asks for an address and runs the command there.
func (r *Runtime) execStream(ctx, _ context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	response, err := ask(ctx, r, r.rs.Exec, &api.ExecRequest{
		ContainerId: id, Cmd: spec.Command, Tty: spec.TTY, Stdin: spec.Stdin != nil, Stdout: true, Stderr: !spec.TTY,
	})
	if err != nil {
		return -1, err
	}
	conn, err := openStreams(ctx, response.Url)
	if err != nil {
		return -1, fmt.Errorf("open streams: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	return stream(conn, spec)
}

func openStreams(ctx context.Context, url string) (httpstream.Connection, error) {
	transport, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(protocolHeader, protocolV4)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	conn, err := transport.NewConnection(response)
	if err != nil {
		return nil, err
	}
	if got := response.Header.Get(protocolHeader); got != protocolV4 {
		return nil, errors.Join(fmt.Errorf("the runtime speaks %q, not %s", got, protocolV4), conn.Close())
	}
	return conn, nil
}

// stream copies until the command has ended and all its output is delivered.
func stream(conn httpstream.Connection, spec runtimeiface.ExecSpec) (int, error) {
	names := []string{"error"}
	if spec.Stdin != nil {
		names = append(names, "stdin")
	}
	names = append(names, "stdout")
	if spec.TTY {
		names = append(names, "resize")
	} else {
		names = append(names, "stderr")
	}
	streams := map[string]httpstream.Stream{}
	for _, name := range names {
		s, err := conn.CreateStream(http.Header{streamType: {name}})
		if err != nil {
			return -1, fmt.Errorf("open stream %s: %w", name, err)
		}
		streams[name] = s
	}
	if err := streams["error"].Close(); err != nil { // nothing is said there
		return -1, fmt.Errorf("open stream error: %w", err)
	}
	if stdin := streams["stdin"]; stdin != nil {
		go func() { // ends with the connection at its next write
			_, _ = io.Copy(stdin, spec.Stdin)
			_ = stdin.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, stdin) }()
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for name, to := range map[string]io.Writer{"stdout": spec.Stdout, "stderr": spec.Stderr} {
		from := streams[name]
		if from == nil {
			continue
		}
		if to == nil {
			to = io.Discard
		}
		wg.Go(func() {
			if _, err := io.Copy(to, from); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				_, _ = io.Copy(io.Discard, from) // the command shall not hang
			}
		})
	}
	text, err := io.ReadAll(io.LimitReader(streams["error"], maxStatus))
	wg.Wait()
	if err != nil {
		return -1, fmt.Errorf("exit status: %w", err)
	}
	code, err := parseExit(text)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(errs...); err != nil {
		return code, fmt.Errorf("deliver output: %w", err)
	}
	return code, nil
}

// parseExit reads a metav1.Status:
//
//	{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}
func parseExit(text []byte) (int, error) {
	if len(text) == 0 {
		return -1, errors.New("the connection ended before the command's exit status")
	}
	var s struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return -1, fmt.Errorf("exit status: %w", err)
	}
	if s.Status == "Success" {
		return 0, nil
	}
	if s.Reason == "NonZeroExitCode" {
		for _, cause := range s.Details.Causes {
			if cause.Reason != "ExitCode" {
				continue
			}
			code, err := strconv.ParseUint(cause.Message, 10, 31)
			if err != nil {
				return -1, fmt.Errorf("exit status: %w", err)
			}
			return int(code), nil
		}
	}
	return -1, commandError(errors.New(s.Message))
}
