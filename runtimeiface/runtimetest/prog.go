package runtimetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Prog plays the helper program of package testimage for a Fake, as far as no
// kernel is needed: FakeImage{Choose: Prog, Entrypoint: []string{"/prog"}}.
// A command that is not "/prog" cannot be run, a step that needs a kernel is a
// start error.
func Prog(p Process) Program {
	run, err := play(p, nil)
	if err != nil {
		return Program{StartError: err.Error()}
	}
	run.program.Exec = func(_ context.Context, p Process, stdin []byte) ExecResult {
		run, err := play(p, stdin)
		if err != nil {
			return ExecResult{Err: err}
		}
		result := ExecResult{Takes: forever}
		if e := run.program.Exit; e != nil {
			result.Takes, result.Code = e.After, int(e.Code)
		}
		for _, out := range run.program.Output {
			if out.Stderr {
				result.Stderr += string(out.Data)
			} else {
				result.Stdout += string(out.Data)
			}
		}
		return result
	}
	return run.program
}

const forever = 100 * 365 * 24 * time.Hour

// played is a script as far as it has been played.
type played struct {
	process Process
	stdin   []byte
	at      time.Duration
	program Program
	over    bool
}

func play(p Process, stdin []byte) (*played, error) {
	if len(p.Argv) == 0 || p.Argv[0] != "/prog" {
		return nil, fmt.Errorf("%q: no such file or directory", p.Argv)
	}
	run := &played{process: p, stdin: stdin}
	for _, step := range splitSteps(p.Argv[1:]) {
		if run.over {
			break
		}
		if err := run.step(step[0], step[1:]); err != nil {
			return nil, fmt.Errorf("%s: %w", step[0], err)
		}
	}
	if !run.over {
		run.exit(0)
	}
	return run, nil
}

// splitSteps splits "print a ; sleep 1s" at its semicolons.
func splitSteps(args []string) [][]string {
	var steps [][]string
	var step []string
	for _, arg := range append(args[:len(args):len(args)], ";") {
		if arg != ";" {
			step = append(step, arg)
		} else if len(step) > 0 {
			steps, step = append(steps, step), nil
		}
	}
	return steps
}

func (r *played) exit(code int32) {
	r.over = true
	r.program.Exit = &Exit{After: r.at, Code: code}
}

func (r *played) out(stderr bool, data []byte) {
	r.program.Output = append(r.program.Output, Output{After: r.at, Stderr: stderr, Data: data})
}

func (r *played) line(text string) { r.out(false, []byte(text+"\n")) }

func (r *played) step(verb string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch verb {
	case "print":
		r.line(strings.Join(args, " "))
	case "eprint":
		r.out(true, []byte(strings.Join(args, " ")+"\n"))
	case "args":
		for _, a := range args {
			r.line(a)
		}
	case "env":
		value, ok := r.env(arg(0))
		if !ok {
			r.exit(1)
			return nil
		}
		r.line(value)
	case "cwd":
		r.line(r.process.Dir)
	case "hostname":
		r.line(r.process.Hostname)
	case "stdin":
		r.out(false, r.stdin)
	case "ignore":
		r.program.IgnoreStop = true
	case "forever":
		r.over = true
	default:
		return r.numeric(verb, arg)
	}
	return nil
}

// numeric does the steps whose arguments are to be read.
func (r *played) numeric(verb string, arg func(int) string) error {
	switch verb {
	case "sleep":
		d, err := time.ParseDuration(arg(0))
		r.at += d
		return err
	case "exit", "kill", "fill":
		n, err := strconv.Atoi(arg(0))
		switch verb {
		case "exit":
			r.exit(int32(n))
		case "kill":
			r.exit(int32(128 + n))
		default:
			r.out(false, bytes.Repeat([]byte("x"), n))
		}
		return err
	case "bytes":
		data, err := hex.DecodeString(arg(0))
		r.out(false, data)
		return err
	case "lines":
		return r.lines(arg(0), arg(1))
	case "trap":
		code, err := strconv.ParseInt(arg(0), 10, 32)
		if err != nil {
			return err
		}
		c := int32(code)
		r.program.StopCode = &c
		if arg(1) != "" {
			r.program.StopTakes, err = time.ParseDuration(arg(1))
		}
		return err
	}
	return fmt.Errorf("needs a kernel")
}

func (r *played) lines(count, every string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var gap time.Duration
	if every != "" {
		if gap, err = time.ParseDuration(every); err != nil {
			return err
		}
	}
	for i := range n {
		r.line("line " + strconv.Itoa(i))
		r.at += gap
	}
	return nil
}

func (r *played) env(name string) (string, bool) {
	value, found := "", false
	for _, env := range r.process.Env {
		if k, v, _ := strings.Cut(env, "="); k == name {
			value, found = v, true
		}
	}
	return value, found
}
