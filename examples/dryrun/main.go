// Command dryrun prints what an agent would do for a manifest, step by step and
// with its reasons, on a node that has nothing or in a state that is given. It
// needs no root and touches nothing: it drives podlifecycle.Plan alone, as a
// provider without containers would.
//
//	dryrun web.yaml
//	dryrun --state state.yaml --exit app=1 --for 5m web.yaml
//	cat web.yaml | dryrun -
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
)

const usage = `usage: dryrun [flags] FILE|-
       dryrun --fields

Prints what would be done for each pod of a manifest, in order, with the rule
that asks for it and why. Every step is taken to succeed at once; programs of
init containers end with 0, others run on, unless --exit says so.

  --state FILE     what is on the node already, see below; default nothing
  --exit NAME=CODE the program of container NAME ends with CODE as soon as it
                   runs; may be given more than once
  --for DURATION   how far to look ahead, such as 5m; default 1m
  --fields         print as JSON what becomes of each field of a pod, and end
  --node NAME      the node's name, as an agent appends it to static pods

A state is YAML, every line optional:

  pod: default/web      # whose state; needed if the manifest has several pods
  deleted: true         # the manifest has just been removed
  sandbox: ready        # or lost; nothing if absent
  containers:
  - name: app
    state: exited       # or running, created
    attempt: 2          # counts restarts
    exitCode: 1
    reason: OOMKilled
    started: 5m         # ago
    finished: 3s        # ago
    image: app:1        # made from another image than the manifest's
    ready: false        # what its readiness probe said last
    alive: false        # what its liveness probe says
    resources: {limits: {memory: 64Mi}} # that it has now, if not the manifest's
`

type options struct {
	file, state, node string
	ahead             time.Duration
	exits             map[string]int32
	fields            bool
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Print(usage)
			return
		}
		fmt.Fprintln(os.Stderr, "dryrun:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.fields {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", " ")
		return encoder.Encode(manifest.Fields())
	}
	in := stdin
	if o.file != "-" {
		file, err := os.Open(o.file)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	set, err := read(in, o)
	if err != nil {
		return err
	}
	for _, problem := range set.Problems {
		_, _ = fmt.Fprintln(out, "refused:", problem.Error())
	}
	given, err := readState(o.state)
	if err != nil {
		return err
	}
	pod, err := given.choose(set.Pods)
	if err != nil {
		return err
	}
	for _, p := range set.Pods {
		w := newWorld(p, o.exits)
		if p == pod {
			if err := w.begin(given); err != nil {
				return fmt.Errorf("%s: %w", o.state, err)
			}
		}
		w.play(out, o.ahead)
	}
	return nil
}

func parse(args []string) (options, error) {
	o := options{exits: map[string]int32{}}
	flags := flag.NewFlagSet("dryrun", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.state, "state", "", "")
	flags.StringVar(&o.node, "node", "", "")
	flags.BoolVar(&o.fields, "fields", false, "")
	flags.DurationVar(&o.ahead, "for", time.Minute, "")
	flags.Func("exit", "", func(text string) error {
		name, number, _ := strings.Cut(text, "=")
		code, err := strconv.ParseInt(number, 10, 32)
		if err != nil || name == "" {
			return errors.New("want NAME=CODE")
		}
		o.exits[name] = int32(code)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.fields && flags.NArg() == 0 {
		return o, nil
	}
	if flags.NArg() != 1 {
		return o, errors.New("want one manifest, or - for standard input (--help says more)")
	}
	o.file = flags.Arg(0)
	return o, nil
}

// read takes the manifest as an agent would: defaulted, and refused by field.
func read(in io.Reader, o options) (source.Set, error) {
	reader, err := source.NewReader(source.ReaderConfig{Reader: in, Name: o.file, NodeName: o.node})
	if err != nil {
		return source.Set{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var set source.Set
	err = reader.Run(ctx, func(s source.Set) { set = s; cancel() })
	return set, err
}

// choose finds the pod that a state is of, nil if there is no state.
func (s state) choose(pods []*corev1.Pod) (*corev1.Pod, error) {
	if s.empty() {
		return nil, nil
	}
	var names []string
	for _, p := range pods {
		name := p.Namespace + "/" + p.Name
		if name == s.Pod || s.Pod == "" && len(pods) == 1 {
			return p, nil
		}
		names = append(names, name)
	}
	return nil, fmt.Errorf("pod %q of the state is none of %s", s.Pod, strings.Join(names, ", "))
}
