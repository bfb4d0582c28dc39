package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type proxyOptions struct {
	sizes         []int
	iptablesUpTo  int
	repeats       int
	subjects      []string
	traffic       time.Duration
	trafficPasses int
	limit         time.Duration
}

// proxyMain measures proxyrules beside kube-proxy, each in network namespaces of
// its own.
func proxyMain(args []string) int {
	flags := flag.NewFlagSet("nodebench proxy", flag.ContinueOnError)
	var o proxyOptions
	sizes := flags.String("services", "1000,10000", "how many Services of 10 endpoints, comma separated")
	subjects := flags.String("proxies", "nodekit,nftables,iptables", "which ones: nodekit, and kube-proxy in mode nftables and iptables")
	flags.IntVar(&o.iptablesUpTo, "iptables-up-to", 1000, "the most Services that kube-proxy gets in mode iptables: it takes minutes with 5,000")
	flags.IntVar(&o.repeats, "repeats", 5, "how often each change is made")
	flags.DurationVar(&o.traffic, "traffic", 3*time.Second, "how long connections are made, each time; 0 for not at all")
	flags.IntVar(&o.trafficPasses, "traffic-passes", 3, "how often, in turns with the path without rules")
	flags.DurationVar(&o.limit, "limit", 15*time.Minute, "how long one sync may take")
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
	o.subjects, o.repeats, o.trafficPasses = strings.Split(*subjects, ","), max(o.repeats, 1), max(o.trafficPasses, 1)
	return exitCode(benchProxies(o))
}

// proxyFigures are what was measured of one proxy with one number of Services.
type proxyFigures struct {
	name, mode                     string
	services                       int
	load, restart                  time.Duration // as the proxy tells its sync took
	loadCPU, restartCPU            time.Duration // with its children's, from the start of the program on
	loadWall                       time.Duration // from the start of the program to the end of its sync
	one, hundred, none             []time.Duration
	oneSeen, hundredSeen, noneSeen []time.Duration // from the API's event to the end of the sync
	grown, child                   int64           // bytes
	// From the notice of a disturbance to its repair, and from its end to when that
	// was told.
	repaired, repairSeen [len(disturbances)][]time.Duration
	connects             trafficFigures
	bare                 trafficFigures
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
	var all []*proxyFigures
	for _, n := range o.sizes {
		for _, name := range o.subjects {
			if name == "iptables" && n > o.iptablesUpTo {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s, %d services\n", name, n)
			f, err := benchOneProxy(ctx, o, dir, name, n)
			if err != nil {
				return fmt.Errorf("%s, %d services: %w", name, n, err)
			}
			all = append(all, f)
		}
	}
	printProxies(o, all)
	return nil
}

func benchOneProxy(ctx context.Context, o proxyOptions, dir, mode string, n int) (_ *proxyFigures, err error) {
	f := &proxyFigures{mode: mode, services: n}
	w, err := newProxyWorld()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()

	// What the program weighs without any Service.
	empty, err := w.start(dir, mode)
	if err != nil {
		return nil, err
	}
	f.name = empty.name
	time.Sleep(2 * time.Second) // it has nothing to sync that could be waited for
	light, err := empty.weigh()
	if _, ended := empty.end(); err != nil || ended != nil {
		return nil, errors.Join(err, ended, errors.New(empty.tail()))
	}

	w.api.fill(n)
	began := time.Now()
	p, err := w.start(dir, mode)
	if err != nil {
		return nil, err
	}
	at, err := p.waitSync(ctx, syncCount{}, o.limit)
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	f.load, f.loadWall = at.sum, time.Since(began)
	heavy, err := p.weigh()
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	f.grown, f.loadCPU = heavy.pss-light.pss, heavy.cpu
	for i := range o.repeats {
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
				return nil, errors.Join(err, p.kill())
			}
			*step.took, *step.seen = append(*step.took, took), append(*step.seen, seen)
		}
	}
	if o.traffic > 0 {
		if err := w.measureTraffic(ctx, o, f); err != nil {
			return nil, errors.Join(err, p.kill())
		}
	}
	if mode == "nodekit" {
		for range o.repeats {
			for i, edit := range disturbances {
				// Who is disturbed all the time repairs less often.
				if err := pass(ctx, 5*time.Second); err != nil {
					return nil, errors.Join(err, p.kill())
				}
				repaired, seen, err := w.disturb(ctx, p, o.limit, edit)
				if err != nil {
					return nil, errors.Join(err, p.kill())
				}
				f.repaired[i], f.repairSeen[i] = append(f.repaired[i], repaired), append(f.repairSeen[i], seen)
			}
		}
	}
	f.child = p.biggestChild()
	if _, err := p.end(); err != nil {
		return nil, err
	}

	// A new one on full tables.
	if p, err = w.start(dir, mode); err != nil {
		return nil, err
	}
	if at, err = p.waitSync(ctx, syncCount{}, o.limit); err != nil {
		return nil, errors.Join(err, p.kill())
	}
	f.restart = at.sum
	if heavy, err = p.weigh(); err != nil {
		return nil, errors.Join(err, p.kill())
	}
	f.restartCPU = heavy.cpu
	_, err = p.end()
	return f, err
}

func printProxies(o proxyOptions, all []*proxyFigures) {
	fmt.Printf("Services of 10 endpoints. Time in ms, as each proxy tells how long its syncs took; medians of %d changes, the longest in brackets.\n\n", o.repeats)
	cell := func(list []time.Duration) string {
		if len(list) == 0 {
			return ""
		}
		return fmt.Sprintf("%s (%s)", millis(median(list)), millis(slices.Max(list)))
	}
	fmt.Println("| Services | proxy | first load | start to loaded, CPU s | on full tables | CPU s | one endpoint | seen after | 100 Services | seen after | nothing changed | grown MB | biggest child MB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, f := range all {
		fmt.Printf("| %d | %s | %s | %s, %.2f | %s | %.2f | %s | %s | %s | %s | %s | %.0f | %.0f |\n", f.services, f.name,
			millis(f.load), millis(f.loadWall), f.loadCPU.Seconds(), millis(f.restart), f.restartCPU.Seconds(), cell(f.one), cell(f.oneSeen), cell(f.hundred), cell(f.hundredSeen), cell(f.none),
			float64(f.grown)/1e6, float64(f.child)/1e6)
	}
	fmt.Print("\nAnother program changes nodekit's rules: from its notice to the repair, and from the end of that program until the repair is told.\n\n")
	fmt.Println("| Services | nft ... | repaired | told |\n|---|---|---|---|")
	for _, f := range all {
		for i, edit := range disturbances {
			if len(f.repaired[i]) > 0 {
				fmt.Printf("| %d | %s | %s | %s |\n", f.services, edit, cell(f.repaired[i]), cell(f.repairSeen[i]))
			}
		}
	}
	if o.traffic > 0 {
		printTraffic(all)
	}
}

func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

func millis(d time.Duration) string {
	switch v := float64(d) / 1e6; {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// lookProgram finds a program that make builds.
func lookProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; make bench-proxy builds it", err)
	}
	return path, nil
}
