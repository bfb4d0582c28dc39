package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type proxyOptions struct {
	sizes         []int
	iptablesUpTo  int
	repeats       int
	changing      time.Duration
	repairs       int
	subjects      []string
	traffic       time.Duration
	trafficPasses int
	limit         time.Duration
	began         time.Time
}

// leastRepeats is how often a change is made in any case.
const leastRepeats = 5

// limitMode is the subject that is no proxy: what the kernel takes.
const limitMode = "limit"

// proxyMain measures proxyrules beside kube-proxy, each in network namespaces of
// its own.
func proxyMain(args []string) int {
	flags := flag.NewFlagSet("nodebench proxy", flag.ContinueOnError)
	var o proxyOptions
	sizes := flags.String("services", "1000,10000", "how many Services of 10 endpoints, comma separated")
	subjects := flags.String("proxies", "nodekit,limit,nftables,iptables", "which ones: nodekit, the limit that the kernel alone sets, and kube-proxy in mode nftables and iptables")
	flags.IntVar(&o.iptablesUpTo, "iptables-up-to", 1000, "the most Services that kube-proxy gets in mode iptables: it takes minutes with 5,000")
	flags.IntVar(&o.repeats, "repeats", 25, "how often each change is made")
	flags.DurationVar(&o.changing, "changing", time.Minute, "how long changes go on at most; each is made five times in any case")
	flags.IntVar(&o.repairs, "repairs", 5, "how often another program changes nodekit's rules in each way; 0 for not at all")
	flags.DurationVar(&o.traffic, "traffic", 2*time.Second, "how long connections are made, each time; 0 for not at all")
	flags.IntVar(&o.trafficPasses, "traffic-passes", 5, "how many rounds of all proxies and of the path without rules, in turns")
	flags.DurationVar(&o.limit, "limit", 5*time.Minute, "how long one sync may take; what takes longer is given up")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 200 {
			fmt.Fprintf(os.Stderr, "nodebench: --services: %q is no number of 200 or more\n", text)
			return 2
		}
		o.sizes = append(o.sizes, n)
	}
	o.began = time.Now()
	o.subjects, o.repeats, o.trafficPasses = strings.Split(*subjects, ","), max(o.repeats, leastRepeats), max(o.trafficPasses, 1)
	return exitCode(benchProxies(o))
}

// What of a proxy is measured, in order.
const (
	stageLoad    = "first load"
	stageChanges = "changes"
	stageRepairs = "repairs"
	stageRestart = "on full tables"
)

// proxyFigures are what was measured of one proxy with one number of Services.
type proxyFigures struct {
	name, mode                     string
	services                       int
	late                           string        // the stage in which a sync took longer than it may: nothing after it was measured
	load, restart                  time.Duration // as the proxy tells its sync took
	loadCPU, restartCPU            time.Duration // with its children's, from the start of the program on
	loadWall                       time.Duration // from the start of the program to the end of its sync
	one, hundred, none             []time.Duration
	oneSeen, hundredSeen, noneSeen []time.Duration // from the API's event to the end of the sync
	grown, grownAfter, child       int64           // bytes: once loaded, and after the changes
	// From the notice of a disturbance to its repair, and from its end to when that
	// was told.
	repaired, repairSeen [len(disturbances)][]time.Duration
}

// disturbances are what another program does to our rules.
var disturbances = [...]string{"add chain ip nodebench intruder", "flush ruleset"}

func benchProxies(o proxyOptions) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "nb")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fmt.Printf("Time in ms, as each proxy tells how long its syncs took; medians of up to %d changes, the longest in brackets. A sync may take %s.\n", o.repeats, o.limit)
	for _, n := range o.sizes {
		if err := benchServices(ctx, o, dir, n); err != nil {
			return fmt.Errorf("%d services: %w", n, err)
		}
	}
	return nil
}

// benchServices measures all subjects with n Services and prints what it found.
func benchServices(ctx context.Context, o proxyOptions, dir string, n int) (err error) {
	var all []*proxyFigures
	var roads []*road
	defer func() {
		for _, r := range roads {
			err = errors.Join(err, r.world.close())
		}
	}()
	for _, mode := range o.subjects {
		if mode == "iptables" && n > o.iptablesUpTo {
			continue
		}
		o.tell(n, mode, "begins")
		if mode == limitMode {
			f, err := benchKernelAlone(o, n)
			if err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
			all = append(all, f)
			continue
		}
		f, w, err := benchOneProxy(ctx, o, dir, mode, n)
		if w != nil {
			roads = append(roads, &road{name: mode, world: w})
		}
		if err != nil {
			printProxies(o, n, all) // what there is
			return fmt.Errorf("%s: %w", mode, err)
		}
		if all = append(all, f); f.late == stageLoad {
			roads[len(roads)-1].broken = true
		} else {
			roads[len(roads)-1].name = f.name
		}
	}
	printProxies(o, n, all)
	if o.traffic == 0 {
		return nil
	}
	if roads, err = openLimits(roads, n); err != nil {
		return err
	}
	o.tell(n, "connections", fmt.Sprintf("%d rounds", o.trafficPasses))
	if err := measureTraffic(ctx, o, n, roads); err != nil {
		return err
	}
	printTraffic(o, n, roads)
	return nil
}

// tell says on standard error how far the run is.
func (o *proxyOptions) tell(n int, what, stage string) {
	fmt.Fprintf(os.Stderr, "%5.0f s  %d services, %s: %s\n", time.Since(o.began).Seconds(), n, what, stage)
}

// benchOneProxy gives the world too, which must be closed: the program has ended
// and its rules stand.
func benchOneProxy(ctx context.Context, o proxyOptions, dir, mode string, n int) (*proxyFigures, *proxyWorld, error) {
	f := &proxyFigures{mode: mode, services: n}
	w, err := newProxyWorld()
	if err != nil {
		return nil, nil, err
	}
	// What the program weighs without any Service.
	empty, err := w.start(dir, mode)
	if err != nil {
		return nil, w, err
	}
	f.name = empty.name
	err = pass(ctx, 2*time.Second) // it has nothing to sync that could be waited for
	light, weighed := empty.weigh()
	if _, ended := empty.end(); err != nil || weighed != nil || ended != nil {
		return nil, w, errors.Join(err, weighed, ended, errors.New(empty.tail()))
	}
	w.api.fill(n)
	o.tell(n, f.name, stageLoad)
	began := time.Now()
	p, err := w.start(dir, mode)
	if err != nil {
		return nil, w, err
	}
	stage := stageLoad
	measure := func() error {
		at, err := p.waitSync(ctx, syncCount{}, o.limit)
		if err != nil {
			return err
		}
		f.load, f.loadWall = at.sum, time.Since(began)
		heavy, err := p.weigh()
		if err != nil {
			return err
		}
		f.loadCPU = heavy.cpu
		if err := pass(ctx, 2*time.Second); err != nil { // as it did without Services
			return err
		}
		if heavy, err = p.weigh(); err != nil {
			return err
		}
		f.grown = heavy.pss - light.pss
		stage = stageChanges
		o.tell(n, f.name, stage)
		if err := w.measureChanges(ctx, o, p, f); err != nil {
			return err
		}
		if heavy, err = p.weigh(); err != nil {
			return err
		}
		f.grownAfter = heavy.pss - light.pss
		if mode == "nodekit" {
			stage = stageRepairs
			o.tell(n, f.name, stage)
			if err := w.measureRepairs(ctx, o, p, f); err != nil {
				return err
			}
		}
		f.child = p.biggestChild()
		first := p
		p = nil
		if _, err := first.end(); err != nil {
			return err
		}
		stage = stageRestart
		o.tell(n, f.name, stage)
		if p, err = w.start(dir, mode); err != nil {
			return err
		}
		if at, err = p.waitSync(ctx, syncCount{}, o.limit); err != nil {
			return err
		}
		f.restart = at.sum
		if heavy, err = p.weigh(); err != nil {
			return err
		}
		f.restartCPU = heavy.cpu
		second := p
		p = nil
		_, err = second.end()
		return err
	}
	if err := measure(); errors.Is(err, errLate) {
		f.late = stage
		o.tell(n, f.name, fmt.Sprintf("%s: given up after %s", stage, o.limit))
		return f, w, p.kill()
	} else if err != nil {
		if p != nil {
			err = errors.Join(err, p.kill())
		}
		return nil, w, err
	}
	return f, w, nil
}

func (w *proxyWorld) measureChanges(ctx context.Context, o proxyOptions, p *proxyRun, f *proxyFigures) error {
	n := f.services
	began := time.Now()
	for i := range o.repeats {
		if i >= leastRepeats && time.Since(began) > o.changing {
			break
		}
		for _, step := range []struct {
			change     func()
			took, seen *[]time.Duration
		}{
			{func() { w.api.changeEndpoints(n/2, 1, i) }, &f.one, &f.oneSeen},
			{func() { w.api.changeEndpoints(n/4, 100, i) }, &f.hundred, &f.hundredSeen},
			{func() { w.api.moveEndpoint(n/2, i) }, &f.none, &f.noneSeen},
		} {
			took, seen, err := p.measure(ctx, o.limit, step.change)
			if err != nil {
				return err
			}
			*step.took, *step.seen = append(*step.took, took), append(*step.seen, seen)
		}
	}
	return nil
}

func (w *proxyWorld) measureRepairs(ctx context.Context, o proxyOptions, p *proxyRun, f *proxyFigures) error {
	for range o.repairs {
		for i, edit := range disturbances {
			// Who is disturbed all the time repairs less often.
			if err := pass(ctx, 5*time.Second); err != nil {
				return err
			}
			repaired, seen, err := w.disturb(ctx, p, o.limit, edit)
			if err != nil {
				return err
			}
			f.repaired[i], f.repairSeen[i] = append(f.repaired[i], repaired), append(f.repairSeen[i], seen)
		}
	}
	return nil
}

// lookProgram finds a program that make builds.
func lookProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; make bench-proxy builds it", err)
	}
	return path, nil
}
