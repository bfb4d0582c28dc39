package podlifecycle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit/nodekit/runtimeiface"
)

// hookOutput is how much of a hook's output stands in its error.
const hookOutput = 1 << 10

// kill runs the preStop hook, then stops the container by the deadline, which
// shorten may bring nearer at any time.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, c *corev1.Container, a Action, host string, shorten <-chan time.Time) error {
	clk := w.m.config.Clock
	deadline, grace := a.Deadline, a.Grace
	left := func() time.Duration { return max(0, deadline.Sub(clk.Now())) }
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && left() > 0 {
		hookCtx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.hook(hookCtx, c, c.Lifecycle.PreStop, a.ID, host) }()
		timer := clk.NewTimer(left())
		running := true
		for running {
			select {
			case err := <-ended:
				running = false
				if err != nil && ctx.Err() == nil {
					w.log.Info("preStop hook did not succeed", "container", c.Name, "error", err.Error())
				}
			case t := <-shorten:
				if t.Before(deadline) {
					deadline = t
					grace = left()
					timer.Stop()
					timer = clk.NewTimer(left())
				}
			case <-timer.C():
				cancel()
				<-ended
				running = false
			}
		}
		timer.Stop()
		cancel()
		if least := clk.Now().Add(min(lastWindow, grace)); deadline.Before(least) {
			deadline = least
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.stop(ctx, a.ID, &deadline, shorten, left)
}

// stop waits for the end of the container; a nearer deadline is a second call.
func (w *worker) stop(ctx context.Context, id string, deadline *time.Time, shorten <-chan time.Time, left func() time.Duration) error {
	calls, ended := 0, make(chan error, 8)
	call := func() {
		calls++
		grace := left()
		go func() {
			ctx, cancel := context.WithTimeout(ctx, grace+killSlack)
			defer cancel()
			ended <- w.m.config.Runtime.StopContainer(ctx, id, grace)
		}()
	}
	call()
	for {
		select {
		case err := <-ended:
			calls--
			if err == nil || calls == 0 {
				for ; calls > 0; calls-- {
					<-ended
				}
				if err != nil {
					return fmt.Errorf("stop container %.12s: %w", id, err)
				}
				return nil
			}
		case t := <-shorten:
			if t.Before(*deadline) && calls < cap(ended) {
				*deadline = t
				call()
			}
		}
	}
}

// postStart runs the hook; its failure ends the container.
func (w *worker) postStart(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, host string) (func(), error) {
	err := w.hook(ctx, c, c.Lifecycle.PostStart, id, host)
	if ctx.Err() != nil {
		return nil, errCancelled
	}
	if err != nil {
		err = fmt.Errorf("PostStartHook of container %s in pod %s/%s: %w", c.Name, pod.Namespace, pod.Name, err)
		return func() {
			w.hooks[id] = Hook{HookFailed, err.Error()}
			w.log.Info("postStart hook failed", "container", c.Name, "error", err.Error())
		}, nil
	}
	return func() { w.hooks[id] = Hook{State: HookDone} }, nil
}

// hook runs one lifecycle handler to its end.
func (w *worker) hook(ctx context.Context, c *corev1.Container, h *corev1.LifecycleHandler, id, host string) error {
	switch {
	case h.Exec != nil:
		out := &limitedBuffer{left: hookOutput}
		code, err := w.m.config.Runtime.Exec(ctx, id, runtimeiface.ExecSpec{Command: h.Exec.Command, Stdout: out, Stderr: out})
		if err != nil {
			return fmt.Errorf("exec %q: %w", h.Exec.Command, err)
		}
		if code != 0 {
			return fmt.Errorf("exec %q: exit code %d: %s", h.Exec.Command, code, out)
		}
		return nil
	case h.HTTPGet != nil:
		return w.httpHook(ctx, c, h.HTTPGet, host)
	case h.Sleep != nil:
		timer := w.m.config.Clock.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("the hook of container %s has no exec, httpGet or sleep", c.Name)
}

func (w *worker) httpHook(ctx context.Context, c *corev1.Container, get *corev1.HTTPGetAction, host string) error {
	if get.Host != "" {
		host = get.Host
	}
	port, err := hookPort(c, get.Port)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("%s://%s/%s", strings.ToLower(string(orHTTP(get.Scheme))), net.JoinHostPort(host, strconv.Itoa(port)), strings.TrimPrefix(get.Path, "/"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("http hook: %w", err)
	}
	req.Header.Set("User-Agent", "kube-lifecycle/1.37")
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	resp, err := w.m.http.Do(req)
	if err != nil {
		return fmt.Errorf("http hook: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, hookOutput))
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("http hook %s: %s: %s", url, resp.Status, text)
	}
	return nil
}

func orHTTP(s corev1.URIScheme) corev1.URIScheme {
	if s == "" {
		return corev1.URISchemeHTTP
	}
	return s
}

func hookPort(c *corev1.Container, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("container %s has no port %q", c.Name, port.StrVal)
}

// limitedBuffer keeps the first bytes written and takes the rest silently.
type limitedBuffer struct {
	mu   sync.Mutex // a command's two streams may be copied at once
	buf  bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.left)
	b.buf.Write(p[:n])
	b.left -= n
	return len(p), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.buf.String())
}
