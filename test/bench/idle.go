package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/agenttest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// exits is how many exits are timed.
const exits = 20

// idle keeps pods with one runtime, then with the other, and says what their
// shims weigh, and how soon the end of one is known.
func (s *stage) idle(ctx context.Context, o runtimeOptions) error {
	handler := "bench-" + o.runtimes[0]
	adapter, err := cri.Dial(ctx, cri.Config{Endpoint: "unix://" + s.daemon.Socket})
	if err != nil {
		return err
	}
	defer func() { _ = adapter.Close() }()
	fmt.Printf("%d idle pods, watched for %v, and the time from a SIGKILL to the event of the exit (median and maximum of %d).\n\n", o.pods, o.idle, exits)
	fmt.Println("| | all running after | shims, PSS | daemon, PSS | shims, % of a core | daemon, % of a core | exit known |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, part := range []struct {
		name   string
		rt     runtimeiface.Runtime
		shims  func() ([]int, error)
		daemon int
	}{
		{"runtimeiface/oci", s.oci, func() ([]int, error) { return agenttest.Processes("nodekit-shim " + s.dir) }, 0},
		{"containerd's CRI", adapter, s.containerdShims, s.daemon.PID()},
	} {
		if err := s.idleOf(ctx, o, handler, part.name, part.rt, part.shims, part.daemon); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	fmt.Println()
	return nil
}

// containerdShims gives the daemon's shims.
func (s *stage) containerdShims() ([]int, error) {
	var pids []int
	for _, p := range s.daemon.Processes() {
		if !strings.Contains(p, "containerd-shim") {
			continue // containerd, or who calls it
		}
		pid, err := strconv.Atoi(strings.Split(p, "/")[2])
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (s *stage) idleOf(ctx context.Context, o runtimeOptions, handler, name string, rt runtimeiface.Runtime, shims func() ([]int, error), daemon int) error {
	l, err := newLife(ctx, rt, s.image, handler)
	if err != nil {
		return err
	}
	sandboxes, containers := make([]string, o.pods), make([]string, o.pods)
	began := time.Now()
	if err := all(o.pods, func(i int) (err error) {
		sandboxes[i], containers[i], err = l.begin(ctx)
		return err
	}); err != nil {
		return err
	}
	running := time.Since(began)
	time.Sleep(5 * time.Second) // what is given back after work
	pids, err := shims()
	if err != nil {
		return err
	}
	if len(pids) < o.pods {
		return fmt.Errorf("%d shims for %d pods", len(pids), o.pods)
	}
	before, err := weigh(pids)
	if err != nil {
		return err
	}
	var daemonBefore, daemonAfter weight
	if daemon != 0 {
		if daemonBefore, err = weigh([]int{daemon}); err != nil {
			return err
		}
	}
	time.Sleep(o.idle)
	after, err := weigh(pids)
	if err != nil {
		return err
	}
	if daemon != 0 {
		if daemonAfter, err = weigh([]int{daemon}); err != nil {
			return err
		}
	}
	known, err := exitsKnown(ctx, rt, containers[:min(exits, len(containers))])
	if err != nil {
		return err
	}
	core := func(a, b weight) float64 { return 100 * float64(b.cpu-a.cpu) / float64(o.idle) }
	fmt.Printf("| %s | %.1f s | %.1f MB | %.1f MB | %.1f | %.1f | %.1f ms, %.1f ms |\n", name, running.Seconds(),
		float64(after.pss)/1e6, float64(daemonAfter.pss)/1e6, core(before, after), core(daemonBefore, daemonAfter), ms(known, 0.5), ms(known, 1))
	return all(o.pods, func(i int) error { return rt.RemoveSandbox(ctx, sandboxes[i]) })
}

// all does n things, eight at a time, and gives the first error.
func all(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	errs := make(chan error, n)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// exitsKnown kills the first process of each container and waits for its event.
func exitsKnown(ctx context.Context, rt runtimeiface.Runtime, containers []string) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	events, err := rt.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	var out []time.Duration
	for _, id := range containers {
		c, err := rt.ContainerStatus(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.PID <= 1 {
			return nil, fmt.Errorf("the process of container %s is not known", id)
		}
		process, err := os.FindProcess(c.PID)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := process.Kill(); err != nil {
			return nil, err
		}
		for e := range events {
			if e.Type == runtimeiface.ContainerStopped && e.ContainerID == id {
				out = append(out, time.Since(began))
				break
			}
		}
	}
	if len(out) < len(containers) {
		return nil, fmt.Errorf("%d of %d exits were told", len(out), len(containers))
	}
	return out, nil
}
