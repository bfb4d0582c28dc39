package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/agenttest"
)

// nodeMain measures the quickstart's agent. Times are read from the containers'
// own logs: the first line of a program, stamped when the shim read it.
func nodeMain(args []string) int {
	flags := flag.NewFlagSet("nodebench node", flag.ContinueOnError)
	runs := flags.Int("runs", 20, "how often one pod is started and ended alone")
	pods := flags.Int("pods", 50, "how many pods are started at once")
	crashes := flags.Int("crashes", 20, "how many first restarts are measured")
	idle := flags.Duration("idle", 10*time.Second, "how long the idle node is watched")
	verbose := flags.Bool("v", false, "print what the agent says")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	return exitCode(run(*runs, *pods, *crashes, *idle, *verbose))
}

func run(runs, pods, crashes int, idle time.Duration, verbose bool) (err error) {
	program, err := exec.LookPath("quickstart")
	if err != nil {
		return fmt.Errorf("%w (make bench builds it)", err)
	}
	dir, err := os.MkdirTemp("", "nodebench-")
	if err != nil {
		return err
	}
	node, err := agenttest.NewNode(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	agent, err := node.Start(program, node.Args()...)
	if err != nil {
		return err
	}
	b := bench{node: node, agent: agent}
	defer func() {
		if verbose || err != nil {
			fmt.Fprintln(os.Stderr, agent.Output.String())
		}
		ended := agent.Interrupt()
		if ended == nil {
			ended = agent.Wait(time.Minute)
		}
		err = errors.Join(err, ended, node.Close(), os.RemoveAll(dir))
	}()
	if err := b.warm(); err != nil {
		return err
	}
	fmt.Println("| what | median | p90 | max |")
	fmt.Println("|---|---|---|---|")
	for _, part := range []func() error{
		func() error { return b.alone(runs) },
		func() error { return b.restarts(crashes) },
		func() error { return b.together(pods) },
		func() error { return b.weigh(pods, idle) },
		func() error { return b.leave(pods) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	node  *agenttest.Node
	agent *agenttest.Process
}

func manifest(name, args string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {
"terminationGracePeriodSeconds": 1,
"containers": [{"name": "main", "image": "localhost:5010/demo:1", "args": [%s]}]}}`, name, args)
}

const clock = `"clock", "/tmp/clock"` // prints a line as it starts, ends when told to

// started waits for the first line of the pod's log, of its n-th instance.
func (b *bench) started(pod string, attempt int) (time.Time, error) {
	return poll(time.Minute, func() (time.Time, error) {
		lines, err := b.lines(pod, attempt)
		if err != nil || len(lines) == 0 {
			return time.Time{}, errors.Join(errors.New("no line in the log of "+pod), err)
		}
		return lines[0].Time, nil
	})
}

func (b *bench) lines(pod string, attempt int) ([]agenttest.Line, error) {
	paths, err := filepath.Glob(filepath.Join(b.node.State, "logs", "default_"+pod+"_*", "main", fmt.Sprint(attempt)+".log"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	return agenttest.Log(paths[0])
}

func poll[T any](limit time.Duration, look func() (T, error)) (T, error) {
	return pollEvery(context.Background(), 2*time.Millisecond, limit, look)
}

func pollEvery[T any](ctx context.Context, gap, limit time.Duration, look func() (T, error)) (T, error) {
	end := time.Now().Add(limit)
	for {
		value, err := look()
		if err == nil || time.Now().After(end) {
			return value, err
		}
		if interrupted := pass(ctx, gap); interrupted != nil {
			return value, errors.Join(interrupted, err)
		}
	}
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gone waits until no process of the pod's is left and gives when.
func (b *bench) gone(pod string) (time.Time, error) {
	return poll(time.Minute, func() (time.Time, error) {
		body, err := b.node.Do("GET", agenttest.StatusURL+"/pods")
		if err != nil {
			return time.Time{}, err
		}
		if strings.Contains(body, `"name":"`+pod) {
			return time.Time{}, fmt.Errorf("%s is still there", pod)
		}
		return time.Now(), nil
	})
}

func (b *bench) warm() error {
	_, err := poll(time.Minute, func() (string, error) { return b.node.Do("GET", agenttest.StatusURL+"/readyz") })
	if err != nil {
		return fmt.Errorf("the agent does not get ready: %w", err)
	}
	return b.one("warm", func(time.Duration) {}, func(time.Duration) {})
}

func (b *bench) one(pod string, up, down func(time.Duration)) error {
	written := time.Now()
	if err := b.node.Write(pod+".json", manifest(pod, clock)); err != nil {
		return err
	}
	at, err := b.started(pod, 0)
	if err != nil {
		return err
	}
	up(at.Sub(written))
	removed := time.Now()
	if err := b.node.Delete(pod + ".json"); err != nil {
		return err
	}
	if at, err = b.gone(pod); err != nil {
		return err
	}
	down(at.Sub(removed))
	return nil
}

func (b *bench) alone(runs int) error {
	var up, down []time.Duration
	for i := range runs {
		err := b.one(fmt.Sprintf("alone-%d", i), func(d time.Duration) { up = append(up, d) },
			func(d time.Duration) { down = append(down, d) })
		if err != nil {
			return err
		}
	}
	row(fmt.Sprintf("one pod: manifest written to first line of output (%d runs)", runs), up)
	row("one pod: manifest removed to pod gone (it ends when told to)", down)
	return nil
}

func (b *bench) restarts(crashes int) error {
	var away []time.Duration
	for i := range crashes {
		pod := fmt.Sprintf("crash-%d", i)
		if err := b.node.Write(pod+".json", manifest(pod, `"exit", "3"`)); err != nil {
			return err
		}
		second, err := b.started(pod, 1)
		if err != nil {
			return err
		}
		first, err := b.lines(pod, 0)
		if err != nil {
			return err
		}
		away = append(away, second.Sub(first[len(first)-1].Time))
		if err := b.node.Delete(pod + ".json"); err != nil {
			return err
		}
		if _, err := b.gone(pod); err != nil {
			return err
		}
	}
	row(fmt.Sprintf("crash to running again, first restart (%d crashes)", crashes), away)
	return nil
}

func many(i int) string { return fmt.Sprintf("many-%d", i) }

func (b *bench) together(pods int) error {
	written := time.Now()
	for i := range pods {
		if err := b.node.Write(many(i)+".json", manifest(many(i), clock)); err != nil {
			return err
		}
	}
	var up []time.Duration
	for i := range pods {
		at, err := b.started(many(i), 0)
		if err != nil {
			return err
		}
		up = append(up, at.Sub(written))
	}
	row(fmt.Sprintf("%d pods at once: first manifest written to first line of each", pods), up)
	return nil
}

func (b *bench) weigh(pods int, idle time.Duration) error {
	shims, err := agenttest.Processes("nodekit-shim " + b.node.Dir)
	if err != nil {
		return err
	}
	if len(shims) != pods {
		return fmt.Errorf("%d shims run for %d pods", len(shims), pods)
	}
	agent, err := agenttest.PSS(b.agent.PID())
	if err != nil {
		return err
	}
	var all int64
	for _, pid := range shims {
		size, err := agenttest.PSS(pid)
		if err != nil {
			return err
		}
		all += size
	}
	fmt.Printf("| memory of the agent with %d pods (PSS) | %.1f MB | | |\n", pods, float64(agent)/1e6)
	fmt.Printf("| memory of %d shims (PSS), each | %.2f MB | | %.1f MB in all |\n", pods, float64(all)/1e6/float64(pods), float64(all)/1e6)
	before, err := b.cpu(shims)
	if err != nil {
		return err
	}
	time.Sleep(idle)
	after, err := b.cpu(shims)
	if err != nil {
		return err
	}
	fmt.Printf("| idle CPU of agent and shims with %d pods, metered every second | %.2f %% of a core | | |\n",
		pods, 100*float64(after-before)/float64(idle))
	return nil
}

func (b *bench) cpu(shims []int) (sum time.Duration, err error) {
	for _, pid := range append([]int{b.agent.PID()}, shims...) {
		used, err := agenttest.CPUTime(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (b *bench) leave(pods int) error {
	removed := time.Now()
	for i := range pods {
		if err := b.node.Delete(many(i) + ".json"); err != nil {
			return err
		}
	}
	at, err := b.gone("many-")
	if err != nil {
		return err
	}
	row(fmt.Sprintf("%d manifests removed to all pods gone", pods), []time.Duration{at.Sub(removed)})
	return nil
}

func row(what string, all []time.Duration) {
	slices.Sort(all)
	at := func(part float64) time.Duration { return all[int(part*float64(len(all)-1))] }
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }
	fmt.Printf("| %s | %s | %s | %s |\n", what, ms(at(0.5)), ms(at(0.9)), ms(at(1)))
}
