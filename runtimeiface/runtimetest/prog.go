package runtimetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Prog plays the helper program of package testimage for a Fake, as far as no
// kernel is needed: FakeImage{Choose: Prog, Entrypoint: []string{"/prog"}}.
// A command that is not "/prog" cannot be run, a step that needs a kernel is a
// start error. Steps after "stdin" are played when standard input has ended, and
// can then do no more than print and end.
func Prog(p Process) Program {
	run := &played{process: p}
	if len(p.Argv) == 0 || p.Argv[0] != "/prog" {
		return Program{StartError: fmt.Sprintf("%q: no such file or directory", p.Argv)}
	}
	if err := run.steps(splitSteps(p.Argv[1:])); err != nil {
		return Program{StartError: err.Error()}
	}
	run.program.Command = Prog
	return run.program
}

// played is a script as far as it has been played.
type played struct {
	process Process
	at      time.Duration
	program Program
	over    bool
}

func (r *played) steps(list [][]string) error {
	for i, step := range list {
		if step[0] == "stdin" && r.process.Stdin {
			return r.reads(list[i+1:])
		}
		if err := r.step(step[0], step[1:]); err != nil {
			return fmt.Errorf("%s: %w", step[0], err)
		}
		if r.over {
			return nil
		}
	}
	r.exit(0)
	return nil
}

// reads leaves the rest for the end of standard input, which a terminal has at
// a byte 4.
func (r *played) reads(rest [][]string) error {
	process := r.process
	process.Stdin = false
	play := func() (*played, error) {
		next := &played{process: process}
		return next, next.steps(rest)
	}
	if _, err := play(); err != nil {
		return err
	}
	ended := false
	r.program.Stdin = func(data []byte) Reaction {
		if ended {
			return Reaction{}
		}
		now := &played{process: process}
		typed := data
		if process.TTY {
			var end bool
			if typed, _, end = bytes.Cut(data, []byte{4}); end {
				data = nil
			}
			now.out(false, typed) // the terminal's echo
		}
		now.out(false, typed)
		if data != nil {
			return Reaction{Output: now.program.Output}
		}
		ended = true
		next, _ := play() // which went well before
		return Reaction{Output: append(now.program.Output, next.program.Output...), Exit: next.program.Exit}
	}
	return nil
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
	if len(data) == 0 {
		return
	}
	if r.process.TTY { // which has one stream, and its own line ends
		stderr, data = false, bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
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
	case "stdin": // has nothing to read
	case "tty":
		r.line(strconv.FormatBool(r.process.TTY))
	case "sizes":
		r.sizes()
	case "serve", "greet", "collect":
		return r.listen(verb, arg(0), arg(1))
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
	case "exit", "kill", "fill", "line":
		n, err := strconv.Atoi(arg(0))
		switch verb {
		case "line":
			r.line(pattern(n))
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

// sizes prints the terminal's size, now and with each change.
func (r *played) sizes() {
	r.line("0x0")
	r.program.Resized = func(size runtimeiface.TerminalSize) Reaction {
		now := &played{process: r.process}
		now.line(fmt.Sprintf("%dx%d", size.Width, size.Height))
		return Reaction{Output: now.program.Output}
	}
	r.over = true
}

// listen plays a server: "serve" echoes, "greet" speaks first and then listens,
// "collect" echoes when it has heard all.
func (r *played) listen(verb, address, text string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	serve := func(_ context.Context, conn io.ReadWriteCloser) {
		if verb == "greet" {
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		var heard io.Reader = conn
		if verb == "collect" {
			all, _ := io.ReadAll(conn)
			heard = bytes.NewReader(all)
		}
		_, _ = io.Copy(conn, heard)
		_ = conn.Close()
	}
	r.program.Listen = map[uint16]func(context.Context, io.ReadWriteCloser){uint16(n): serve}
	r.line("serving")
	r.over = true
	return nil
}

// pattern is n bytes of which each sixteen tell where they are.
func pattern(n int) string {
	b := make([]byte, 0, n+16)
	for at := 0; at < n; at += 16 {
		digits := strconv.Itoa(at)
		b = append(b, "000000000000000"[len(digits):]...)
		b = append(append(b, digits...), '.')
	}
	return string(b[:n])
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
