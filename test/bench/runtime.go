package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/containerdtest"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// block is how many cycles one subject does before the next has its turn: CPU
// time is read around a block, for the kernel counts it in hundredths.
const block = 5

// rest is how long the machine rests after a cycle: what a subject prepares for
// the next one is done by then.
const rest = 100 * time.Millisecond

// settle is how long the machine rests after a block, so that what a subject
// leaves for later counts as its own.
const settle = 300 * time.Millisecond

type runtimeOptions struct {
	cycles, pods int
	idle         time.Duration
	runtimes     []string
}

// runtimeMain measures runtimes: start, stop and CPU of a pod by turns, then
// memory and idle CPU of many.
func runtimeMain(args []string) int {
	flags := flag.NewFlagSet("nodebench runtime", flag.ContinueOnError)
	var o runtimeOptions
	flags.IntVar(&o.cycles, "cycles", 25, "how many pods each subject starts and stops, rounded up to blocks of 5")
	flags.IntVar(&o.pods, "pods", 110, "how many pods are kept idle; 0 leaves that part out")
	flags.DurationVar(&o.idle, "idle", 20*time.Second, "how long idle pods are watched")
	runtimes := flags.String("runtimes", "runc", "OCI runtimes in PATH, comma separated, such as runc,crun; the first is used with idle pods")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	o.runtimes = strings.Split(*runtimes, ",")
	return containerdtest.Unshare(func() int { return exitCode(benchRuntimes(o)) })
}

// stage is what all subjects stand on.
type stage struct {
	dir    string
	image  string // reference
	pause  string // reference
	daemon *containerdtest.Daemon
	oci    *oci.Runtime
	cgroup string
}

func benchRuntimes(o runtimeOptions) (err error) {
	ctx := context.Background()
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
	s := &stage{dir: dir, image: server.Images().Prog, cgroup: fmt.Sprintf("/nodebench-%d", os.Getpid())}
	if s.pause, err = containerdtest.PushPause(s.image); err != nil {
		return err
	}
	if err := s.open(o.runtimes); err != nil {
		return errors.Join(err, s.close())
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.cycles(ctx, o); err != nil {
		return err
	}
	if o.pods == 0 {
		return nil
	}
	return s.idle(ctx, o)
}

// open starts both runtimes with the same OCI runtimes as handlers.
func (s *stage) open(runtimes []string) error {
	handlers, theirs := map[string]string{}, map[string]containerdtest.Handler{}
	for _, r := range runtimes {
		path, err := exec.LookPath(r)
		if err != nil {
			return err
		}
		handlers["bench-"+r], theirs["bench-"+r] = path, containerdtest.Handler{Program: path}
	}
	var err error
	s.daemon, err = containerdtest.New(containerdtest.Config{Dir: filepath.Join(s.dir, "c"), Pause: s.pause, Handlers: theirs})
	if err != nil {
		return err
	}
	if err := s.daemon.Start(); err != nil {
		return err
	}
	s.oci, err = oci.Open(oci.Config{Root: filepath.Join(s.dir, "oci"), CgroupRoot: s.cgroup, RuntimeHandlers: handlers, WarmShims: 1})
	return err
}

func (s *stage) close() error {
	var errs []error
	if s.oci != nil {
		errs = append(errs, s.oci.Purge(context.Background()), s.oci.Close())
	}
	if s.daemon != nil {
		errs = append(errs, s.daemon.Close())
	}
	return errors.Join(errs...)
}

// figures are what the cycles of one subject took.
type figures struct {
	start, remove []time.Duration
	cpu           []time.Duration // of the whole machine, for a cycle
}

func (s *stage) cycles(ctx context.Context, o runtimeOptions) error {
	subjects, err := s.subjects(ctx, o.runtimes)
	if err != nil {
		return err
	}
	all := make([]figures, len(subjects))
	for _, subject := range subjects { // warm
		if _, _, err := subject.cycle(ctx); err != nil {
			return fmt.Errorf("%s: %w", subject.name, err)
		}
	}
	blocks := (o.cycles + block - 1) / block
	for b := range blocks {
		for i := range subjects {
			at := (i + b) % len(subjects) // nobody always follows the same one
			if err := all[at].block(ctx, subjects[at]); err != nil {
				return fmt.Errorf("%s: %w", subjects[at].name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "block %d of %d done\n", b+1, blocks)
	}
	fmt.Printf("Start and stop of one pod with one container, image present: median and 90th percentile of %d, in ms.\n\n", blocks*block)
	fmt.Println("| | start | p90 | stop and remove | p90 | CPU of the machine per cycle |")
	fmt.Println("|---|---|---|---|---|---|")
	for i, subject := range subjects {
		f := all[i]
		fmt.Printf("| %s | %.1f | %.1f | %.1f | %.1f | %.0f |\n", subject.name, ms(f.start, 0.5), ms(f.start, 0.9),
			ms(f.remove, 0.5), ms(f.remove, 0.9), ms(f.cpu, 0.5))
	}
	fmt.Println()
	for _, subject := range subjects {
		if subject.close != nil {
			if err := subject.close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *figures) block(ctx context.Context, s subject) error {
	before, err := busy()
	if err != nil {
		return err
	}
	for range block {
		start, remove, err := s.cycle(ctx)
		if err != nil {
			return err
		}
		f.start, f.remove = append(f.start, start), append(f.remove, remove)
		time.Sleep(rest)
	}
	time.Sleep(settle)
	after, err := busy()
	f.cpu = append(f.cpu, (after-before)/block)
	return err
}
