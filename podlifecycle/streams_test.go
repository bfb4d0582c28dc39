package podlifecycle_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/crilog"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func echoImage(ref string) runtimetest.FakeImage {
	return runtimetest.FakeImage{Ref: ref, Present: true, Program: runtimetest.Program{
		Output: []runtimetest.Output{{Data: []byte("hello\n")}},
		Exec: func(_ context.Context, p runtimetest.Process, stdin []byte) runtimetest.ExecResult {
			return runtimetest.ExecResult{Stdout: strings.Join(p.Argv, " ") + ": " + string(stdin), Code: 3}
		},
		Listen: map[uint16]func(context.Context, io.ReadWriteCloser){80: func(_ context.Context, conn io.ReadWriteCloser) {
			_, _ = io.WriteString(conn, "answer")
			_ = conn.Close()
		}},
	}}
}

// Commands, streams and connections reach the instance that runs now, also
// after a restart; what does not run says why.
func TestStreamsByName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, echoImage("web:1"), runtimetest.FakeImage{Ref: "crash:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{Code: 2}}}).start()
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true }),
			newPod("two", func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{container("good", "web:1"), container("bad", "crash:1")}
			}))
		r.pass(time.Second)
		ctx := t.Context()
		exec := func(pod, container string) (string, int, error) {
			var out bytes.Buffer
			code, err := r.m.Exec(ctx, "default", pod, container, runtimeiface.ExecSpec{Command: []string{"say", "it"}, Stdin: strings.NewReader("x"), Stdout: &out})
			return out.String(), code, err
		}
		for range 2 {
			if out, code, err := exec("web", ""); out != "say it: x" || code != 3 || err != nil {
				t.Errorf("exec: %q, %d, %v", out, code, err)
			}
			if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
				t.Fatal(err)
			}
			r.pass(15 * time.Second)
		}
		for _, test := range []struct {
			pod, container, text string
			is                   error
		}{
			{"none", "app", "pod default/none", podlifecycle.ErrNotFound},
			{"web", "other", "container other in pod default/web", podlifecycle.ErrNotFound},
			{"two", "", "must be named, one of good, bad", podlifecycle.ErrNotFound},
			{"two", "bad", "container bad in pod default/two is waiting (CrashLoopBackOff)", runtimeiface.ErrNotRunning},
		} {
			if _, _, err := exec(test.pod, test.container); !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("exec in %s/%s: %v", test.pod, test.container, err)
			}
			if err := r.m.Attach(ctx, "default", test.pod, test.container, runtimeiface.AttachSpec{}); !errors.Is(err, test.is) {
				t.Errorf("attach to %s/%s: %v", test.pod, test.container, err)
			}
		}
		attached := make(chan error, 1)
		go func() {
			attached <- r.m.Attach(ctx, "default", "web", "app", runtimeiface.AttachSpec{Stdin: strings.NewReader("")})
		}()
		if err := <-attached; err != nil {
			t.Errorf("attach: %v", err)
		}
		if err := r.m.Attach(ctx, "default", "two", "good", runtimeiface.AttachSpec{Stdin: strings.NewReader("")}); !errors.Is(err, runtimeiface.ErrInvalid) {
			t.Errorf("attach without stdin: %v", err)
		}
		mine, theirs := net.Pipe()
		go func() { _ = r.m.PortForward(ctx, "default", "web", 80, theirs) }()
		if got, err := io.ReadAll(mine); string(got) != "answer" || err != nil {
			t.Errorf("port-forward: %q, %v", got, err)
		}
		if err := r.m.PortForward(ctx, "default", "none", 80, theirs); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("port-forward to nothing: %v", err)
		}
		var log bytes.Buffer
		if err := r.m.Logs(ctx, "default", "web", "", true, crilog.Options{Follow: true}, &log, &log); err != nil || log.String() != "hello\n" {
			t.Errorf("log of the instance before: %q, %v", log.String(), err)
		}
		if err := r.m.Logs(ctx, "default", "web", "other", false, crilog.Options{}, &log, &log); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("log of nothing: %v", err)
		}
	})
}

// A log that is followed ends with its instance.
func TestLogsFollow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, echoImage("web:1")).start()
		r.set(newPod("web"))
		r.settle()
		var log bytes.Buffer
		done := make(chan error, 1)
		go func() {
			done <- r.m.Logs(t.Context(), "default", "web", "app", false, crilog.Options{Follow: true}, &log, &log)
		}()
		r.pass(time.Second)
		if len(done) != 0 {
			t.Fatal("ended while the container runs")
		}
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || log.String() != "hello\n" {
			t.Errorf("%q, %v", log.String(), err)
		}
	})
}
