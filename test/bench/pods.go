package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/internal/containerdtest"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

const (
	graceSeconds = 1
	// rested is how long a node with many pods is left alone before it is watched.
	rested = 10 * time.Second
)

type podsOptions struct {
	cycles, turns, crashes, pods int
	idle                         time.Duration
	subjects                     []string
}

// podsMain measures agents: the kubelet, and nodekit's parts with the same
// runtime and without a daemon.
func podsMain(args []string) int {
	flags := flag.NewFlagSet("nodebench pods", flag.ContinueOnError)
	var o podsOptions
	flags.IntVar(&o.cycles, "cycles", 15, "how many pods each agent starts and removes alone")
	flags.IntVar(&o.turns, "turns", 3, "into how many turns an agent's cycles and crashes are divided")
	flags.IntVar(&o.crashes, "crashes", 15, "how many first restarts are measured of each agent")
	flags.IntVar(&o.pods, "pods", 110, "how many pods are started at once and kept idle; 0 leaves that part out")
	flags.DurationVar(&o.idle, "idle", 20*time.Second, "how long the idle node is watched")
	subjects := flags.String("agents", "kubelet,cri,runc,crun", "which agents, comma separated")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	o.subjects, o.turns = strings.Split(*subjects, ","), max(o.turns, 1)
	return containerdtest.Unshare(func() int { return exitCode(benchPods(o)) })
}

// podStage is what the agents stand on.
type podStage struct {
	stage
	o      podsOptions
	conn   *grpc.ClientConn
	agents []*agent
	limits []*limit
}

func benchPods(o podsOptions) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "nb")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := testimage.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	s := &podStage{o: o, stage: stage{dir: dir, image: server.Images().Prog, cgroup: fmt.Sprintf("/nodebench-%d", os.Getpid())}}
	if s.pause, err = containerdtest.PushPause(s.image); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.measure(ctx); err != nil {
		return err
	}
	s.print()
	return nil
}

func (s *podStage) open(ctx context.Context) error {
	var runtimes []string
	for _, name := range s.o.subjects {
		if name == "runc" || name == "crun" {
			runtimes = append(runtimes, name)
		}
	}
	if err := s.stage.open(runtimes); err != nil {
		return err
	}
	for _, name := range s.o.subjects {
		program := "staticpods"
		if name == "kubelet" {
			program = "kubelet"
		}
		program, err := exec.LookPath(program)
		if err != nil {
			return fmt.Errorf("%w (make bench-pods builds it)", err)
		}
		var a *agent
		switch name {
		case "kubelet":
			if a, err = s.kubelet(program); err != nil {
				return err
			}
		case "cri":
			a = s.onContainerd(program)
		case "runc", "crun":
			a = s.daemonless(program, name)
		default:
			return fmt.Errorf("agent %q: unknown", name)
		}
		s.agents = append(s.agents, a)
	}
	return s.openLimits(ctx, runtimes)
}

// close ends what still runs, in the order that leaves nothing.
func (s *podStage) close() error {
	ctx := context.Background()
	var errs []error
	for _, a := range s.agents {
		errs = append(errs, a.down(), a.clear(ctx))
	}
	errs = append(errs, s.clearContainerd(ctx))
	for _, l := range s.limits {
		errs = append(errs, l.close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	errs = append(errs, s.stage.close(), unmount(s.dir))
	for _, a := range s.agents {
		errs = append(errs, removeCgroup(a.cgroup))
	}
	return errors.Join(errs...)
}

// clearContainerd removes what an agent or the limit left there.
func (s *podStage) clearContainerd(ctx context.Context) error {
	if s.conn == nil {
		return nil
	}
	return clearContainerd(ctx, api.NewRuntimeServiceClient(s.conn))
}

// measure gives each agent its turns, so that none has the machine's good hours.
func (s *podStage) measure(ctx context.Context) error {
	for turn := range s.o.turns {
		for _, l := range s.limits {
			for range share(s.o.cycles, s.o.turns, turn) {
				if err := pass(ctx, time.Second); err != nil { // at rest, as agents
					return err
				}
				took, err := l.start(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", l.name, err)
				}
				l.starts = append(l.starts, took)
			}
			for range share(s.o.crashes, s.o.turns, turn) {
				took, err := l.crash(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", l.name, err)
				}
				l.crashes = append(l.crashes, took)
			}
		}
		for i := range s.agents {
			a := s.agents[(i+turn)%len(s.agents)]
			err := s.turn(ctx, a, func() error {
				return errors.Join(a.alone(ctx, share(s.o.cycles, s.o.turns, turn)), a.crash(ctx, share(s.o.crashes, s.o.turns, turn)))
			})
			if err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "turn %d of %d done\n", turn+1, s.o.turns)
	}
	if s.o.pods == 0 {
		return nil
	}
	for _, a := range s.agents {
		if err := s.turn(ctx, a, func() error { return a.many(ctx, s.o.pods, s.o.idle) }); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s: many pods done\n", a.name)
	}
	for _, l := range s.limits {
		if l.many == nil {
			continue
		}
		var err error
		if l.together, err = l.many(ctx, s.o.pods); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

// share is the part of n that falls to one turn of several.
func share(n, turns, turn int) int { return (n + turn) / turns }

// turn runs one agent for a while, and nobody else.
func (s *podStage) turn(ctx context.Context, a *agent, do func() error) error {
	err := a.up(ctx)
	if err == nil {
		err = do()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", a.name, err, a.tail())
	}
	err = errors.Join(err, a.down())
	if a.daemon != nil {
		err = errors.Join(err, s.clearContainerd(context.WithoutCancel(ctx)))
	}
	return err
}

// alone starts and removes pods, one at a time.
func (a *agent) alone(ctx context.Context, cycles int) error {
	for i := range cycles {
		pod := fmt.Sprintf("alone%d", lives.Add(1))
		began := time.Now()
		if err := a.write(pod); err != nil {
			return err
		}
		at, err := a.started(ctx, pod, 0)
		if err != nil {
			return err
		}
		a.starts = append(a.starts, at.Sub(began))
		if err := apart(ctx, i); err != nil {
			return err
		}
		began = time.Now()
		if err := a.remove(pod); err != nil {
			return err
		}
		if at, err = a.gone(ctx, goneGap); err != nil {
			return err
		}
		a.removes = append(a.removes, at.Sub(began))
		// The next pod starts on a node at rest: networks and directories go after
		// the processes.
		if err := pass(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// apart lets time pass, another part of a second each time: some agents look at
// their pods at full seconds after the begin.
func apart(ctx context.Context, i int) error {
	return pass(ctx, 700*time.Millisecond+time.Duration(i*370%1000)*time.Millisecond)
}

// crash starts pods and kills their programs one after another.
func (a *agent) crash(ctx context.Context, crashes int) error {
	var pods []string
	for range crashes {
		pods = append(pods, fmt.Sprintf("crash%d", lives.Add(1)))
	}
	if err := a.writeAll(pods); err != nil {
		return err
	}
	for _, pod := range pods {
		if _, err := a.started(ctx, pod, 0); err != nil {
			return err
		}
	}
	for i, pod := range pods {
		if err := apart(ctx, i); err != nil {
			return err
		}
		process, err := a.program(pod)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := process.Kill(); err != nil {
			return err
		}
		at, err := a.started(ctx, pod, 1)
		if err != nil {
			return err
		}
		a.crashes = append(a.crashes, at.Sub(began))
	}
	if err := a.removeAll(pods); err != nil {
		return err
	}
	_, err := a.gone(ctx, manyGap)
	return err
}

func (a *agent) writeAll(pods []string) error {
	for _, pod := range pods {
		if err := a.write(pod); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) removeAll(pods []string) error {
	for _, pod := range pods {
		if err := a.remove(pod); err != nil {
			return err
		}
	}
	return nil
}

// many starts pods all at once, watches them do nothing, and removes them.
func (a *agent) many(ctx context.Context, count int, idle time.Duration) error {
	var pods []string
	for range count {
		pods = append(pods, fmt.Sprintf("many%d", lives.Add(1)))
	}
	began := time.Now()
	if err := a.writeAll(pods); err != nil {
		return err
	}
	for _, pod := range pods {
		at, err := a.started(ctx, pod, 0)
		if err != nil {
			return err
		}
		a.together = append(a.together, at.Sub(began))
	}
	if err := pass(ctx, rested); err != nil {
		return err
	}
	before, err := a.weigh()
	if err != nil {
		return err
	}
	if err := pass(ctx, idle); err != nil {
		return err
	}
	after, err := a.weigh()
	if err != nil {
		return err
	}
	a.own = weight{after.own.pss, after.own.cpu - before.own.cpu}
	a.node = weight{after.node.pss, after.node.cpu - before.node.cpu}
	began = time.Now()
	if err := a.removeAll(pods); err != nil {
		return err
	}
	at, err := a.gone(ctx, manyGap)
	a.cleared = at.Sub(began)
	return err
}

type load struct{ own, node weight }

// weigh weighs the agent, and the whole node: agent, runtime and shims.
func (a *agent) weigh() (load, error) {
	own, err := weigh([]int{a.run.Process.Pid})
	if err != nil {
		return load{}, err
	}
	others, err := a.shims()
	if err != nil {
		return load{}, err
	}
	if a.daemon != nil {
		others = append(others, a.daemon())
	}
	rest, err := weigh(others)
	return load{own, weight{own.pss + rest.pss, own.cpu + rest.cpu}}, err
}
