package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
)

// screen says to a person what happens: a line for each change of a pod, a bar
// for each pull.
type screen struct {
	terminal bool

	mu    sync.Mutex
	out   io.Writer
	bar   string            // the bar that stands in the last line of a terminal
	said  map[string]string // what was said of a pod last
	phase map[string]string // of a pull
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	return &screen{out: out, said: map[string]string{}, phase: map[string]string{},
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line(fmt.Sprintf(format, args...))
}

// line prints above the bar. s.mu is held.
func (s *screen) line(text string) {
	if s.bar != "" {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
	fmt.Fprintln(s.out, text)
	fmt.Fprint(s.out, s.bar)
}

// listening is told where the status server listens.
func (s *screen) listening(bound []net.Addr) {
	s.say("status on http://%s, the page on http://%s/ui/", bound[0], bound[0])
}

// tell gives a status callback that says what a person wants to know, then calls next.
func (s *screen) tell(next func(*corev1.Pod)) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		text := describe(pod)
		s.mu.Lock()
		if name := pod.Namespace + "/" + pod.Name; s.said[name] != text {
			s.said[name] = text
			s.line(fmt.Sprintf("pod %-16s %s", name, text))
		}
		s.mu.Unlock()
		next(pod)
	}
}

func describe(pod *corev1.Pod) string {
	text := string(pod.Status.Phase)
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			text += ", ready"
		}
	}
	if pod.DeletionTimestamp != nil {
		text += ", ending"
	}
	if pod.Status.PodIP != "" {
		text += " at " + pod.Status.PodIP
	}
	for _, status := range append(append([]corev1.ContainerStatus(nil), pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		if waiting := status.State.Waiting; waiting != nil && waiting.Reason != "PodInitializing" && waiting.Reason != "ContainerCreating" {
			text += fmt.Sprintf("; %s waits: %s %s", status.Name, waiting.Reason, waiting.Message)
		}
		if status.RestartCount > 0 {
			text += fmt.Sprintf("; %s restarted (%d)", status.Name, status.RestartCount)
		}
	}
	if pod.Status.Message != "" {
		text += ": " + pod.Status.Message
	}
	return text
}

// watchPulls shows a bar for each pull of the runtime.
func (s *screen) watchPulls(runtime podlifecycle.Runtime) podlifecycle.Runtime {
	return pulls{runtime, s}
}

type pulls struct {
	podlifecycle.Runtime
	screen *screen
}

// PullImage pulls and shows how far it is.
func (p pulls) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, progress func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	begun := time.Now()
	image, err := p.Runtime.PullImage(ctx, spec, func(at runtimeiface.PullProgress) {
		p.screen.pull(at)
		if progress != nil {
			progress(at)
		}
	})
	p.screen.pulled(spec.Ref, image, err, time.Since(begun))
	return image, err
}

const barWidth = 30

func (s *screen) pull(at runtimeiface.PullProgress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal { // a log wants a line for each phase, not a bar
		if s.phase[at.Ref] != at.Phase && at.Phase != "done" {
			s.phase[at.Ref] = at.Phase
			s.line(fmt.Sprintf("pull %s: %s", at.Ref, at.Phase))
		}
		return
	}
	full := 0
	if at.Total > 0 {
		full = int(barWidth * at.Done / at.Total)
	}
	s.bar = fmt.Sprintf("pull %s [%s%s] %.1f of %.1f MB, %d of %d layers, %s", at.Ref, strings.Repeat("#", full),
		strings.Repeat(".", barWidth-full), float64(at.Done)/1e6, float64(at.Total)/1e6, at.LayersDone, at.Layers, at.Phase)
	fmt.Fprint(s.out, "\r\x1b[K", s.bar)
}

func (s *screen) pulled(ref string, image runtimeiface.Image, err error, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != "" {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.bar = ""
	}
	if err != nil {
		s.line(fmt.Sprintf("pull %s: %v", ref, err))
		return
	}
	s.line(fmt.Sprintf("pulled %s in %v: %.1f MB", ref, took.Round(time.Millisecond), float64(image.Size)/1e6))
}
