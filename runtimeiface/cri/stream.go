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

	"github.com/nodekit/nodekit/runtimeiface"
)

// The protocol of Kubernetes v1.37.0 staging/src/k8s.io/cri-streaming
// pkg/streaming/remotecommand: streams over SPDY, an exit status in JSON on the
// stream "error".
const (
	protocolV4 = "v4.channel.k8s.io"
	streamType = "streamType"
)

// maxStatus bounds the exit status.
const maxStatus = 64 << 10

// terminal is what a command or a container is connected to.
type terminal struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	tty            bool
	resize         <-chan runtimeiface.TerminalSize
	// endless: the end of stdin is not told. It ends a command's output, not its
	// input, with a terminal (containerd v2.4.2, internal/cri/io/exec_io.go).
	endless bool
}

// execStream asks for an address and runs the command there.
func (r *Runtime) execStream(ctx, limit context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	response, err := ask(ctx, r, r.rs.Exec, &api.ExecRequest{
		ContainerId: id, Cmd: spec.Command, Tty: spec.TTY, Stdin: spec.Stdin != nil, Stdout: true, Stderr: !spec.TTY,
	})
	if err != nil {
		return -1, err
	}
	text, delivery, err := connect(ctx, response.Url, terminal{
		stdin: spec.Stdin, stdout: spec.Stdout, stderr: spec.Stderr, tty: spec.TTY, resize: spec.Resize, endless: spec.TTY,
	})
	if errors.Is(err, runtimeiface.ErrNotSupported) && spec.Stdin == nil && !spec.TTY {
		return r.execSync(ctx, limit, id, spec)
	}
	if err != nil {
		return -1, err
	}
	code, err := parseExit(text)
	if err != nil {
		return -1, err
	}
	return code, delivery
}

// connect copies until the server has told its status and all output is
// delivered, as far as Stdout and Stderr would have it, or until ctx ends.
func connect(ctx context.Context, address string, t terminal) (status []byte, delivery, err error) {
	conn, err := openStreams(ctx, address, protocolV4)
	if err != nil {
		return nil, nil, fmt.Errorf("open streams: %w", err)
	}
	var ended sync.Once
	end := func() { ended.Do(conn.close) }
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	opened, err := t.open(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	_ = opened["error"].Close() // nothing is said there
	done := make(chan struct{})
	defer close(done)
	if t.resize != nil && t.tty {
		go t.sizes(opened["resize"], done)
	}
	if stdin := opened["stdin"]; stdin != nil {
		go func() { // ends with the connection at its next write
			_, _ = io.Copy(stdin, t.stdin)
			if !t.endless {
				_ = stdin.Close()
			}
		}()
		go func() { _, _ = io.Copy(io.Discard, stdin) }()
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, to := range []io.Writer{t.stdout, t.stderr} {
		name := []string{"stdout", "stderr"}[i]
		from := opened[name]
		if from == nil {
			continue
		}
		if to == nil {
			to = io.Discard
		}
		wg.Go(func() {
			if _, err := io.Copy(to, from); err != nil {
				errs[i] = fmt.Errorf("deliver output: %s: %w", name, err)
				_, _ = io.Copy(io.Discard, from) // the command shall not hang
			}
		})
	}
	status, err = io.ReadAll(io.LimitReader(opened["error"], maxStatus))
	wg.Wait()
	if err != nil {
		return nil, nil, fmt.Errorf("status: %w", err)
	}
	return status, errors.Join(errs...), nil
}

// open creates the streams. The server begins once it has all of them, so what
// the terminal's size is shall be on its way before.
func (t terminal) open(ctx context.Context, conn *streams) (map[string]httpstream.Stream, error) {
	names := []string{"error", "stdout"}
	if t.tty {
		names = append([]string{"resize"}, names...)
	} else {
		names = append(names, "stderr")
	}
	if t.stdin != nil {
		names = append(names, "stdin")
	}
	opened := map[string]httpstream.Stream{}
	for _, name := range names {
		s, err := conn.create(ctx, name, http.Header{streamType: {name}})
		if err != nil {
			return nil, err
		}
		opened[name] = s
		if name != "resize" {
			continue
		}
		select {
		case size, ok := <-t.resize:
			if ok {
				writeSize(s, size)
			}
		default:
		}
	}
	return opened, nil
}

func (t terminal) sizes(to io.Writer, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-t.resize:
			if !ok {
				return
			}
			writeSize(to, size)
		case <-done:
			return
		}
	}
}

// writeSize leaves an error to those who read from the same connection.
func writeSize(to io.Writer, size runtimeiface.TerminalSize) {
	_ = json.NewEncoder(to).Encode(size)
}

// parseExit reads a metav1.Status:
//
//	{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}
func parseExit(text []byte) (int, error) {
	if len(text) == 0 {
		return -1, fmt.Errorf("%w: the connection ended before the exit status", runtimeiface.ErrUnavailable)
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
