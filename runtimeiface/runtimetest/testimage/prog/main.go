// Command prog is the program in the images that runtimetest's cases run. Its
// arguments are steps, done one after another, with ";" between them:
//
//	/prog print hello ";" sleep 1s ";" exit 3
//
// A step that fails says why on standard error and ends the program with 1.
// Signals that would end a program end it with 128 + signal, unless a step
// ignored or trapped them; this also holds for the first process of a PID
// namespace, which the kernel shields.
//
// Steps without need of a kernel, which runtimetest.Prog plays too:
//
//	print WORDS...    a line on standard output; eprint on standard error
//	args WORDS...     each on a line of its own
//	env NAME          the variable's value, or exit 1
//	cwd, hostname     where and on what it runs
//	fill N            N times "x", no newline
//	bytes HEX         these bytes
//	lines N [GAP]     "line 0" to "line N-1"
//	line N            a line of N bytes, of which each sixteen tell where they are
//	stdin             standard input, to its end
//	tty               true or false: whether standard input is a terminal
//	sizes             the terminal's size, as "80x24", now and with each change
//	serve ADDRESS     a TCP server that sends back what it gets
//	collect ADDRESS   one that does so when it has heard all
//	greet ADDRESS TEXT  one that sends TEXT, says its last, and goes on reading
//	sleep DURATION, forever
//	exit N
//	kill N            sends signal N to itself
//	ignore            from now on deaf to signals
//	trap N [AFTER]    from now on a signal leads to exit N, after a time
//
// Steps that look at the kernel's work:
//
//	cat FILE, ls DIR, write FILE TEXT, append FILE TEXT
//	ids               "UID GID GROUPS..."
//	chown FILE UID GID
//	ps                the command line of every process it can see
//	spawn STEP...     a child with these steps ("," for ";"), not waited for
//	run STEP...       the same, waited for: prints "exit N" or "signal N"
//	orphan STEP...    the same in a session of its own, whose parent has gone
//	count FILE GAP    appends "." to FILE for ever
//	await FILE        waits until FILE is there
//	mkdir DIR, mknod FILE MAJOR MINOR, mount DIR (a tmpfs)
//	open FILE         opens a file or a device for reading
//	owner FILE        "UID GID MODE"
//	link FILE         where a symbolic link points
//	try WHAT          "ok" or an errno's text: unshare, keyctl, sethostname
//	dial ADDRESS TEXT sends TEXT to a server that echoes, prints the answer
//	burn DURATION     uses that much CPU
//	hold BYTES        touches that much memory and keeps it
//	now WORDS...      the time, in nanoseconds since 1970; the words are to tell
//	                  the process by
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	var t trap
	t.listen()
	for _, step := range split(os.Args[1:]) {
		if err := do(&t, step[0], step[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", step[0], err)
			os.Exit(1)
		}
	}
}

func split(args []string) [][]string {
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

// trap is what a signal does.
type trap struct {
	mu    sync.Mutex
	deaf  bool
	set   bool
	code  int
	after time.Duration
}

// listen handles the signals that end a program: HUP, INT, QUIT, USR1, USR2, TERM.
func (t *trap) listen() {
	got := make(chan os.Signal, 8)
	for _, n := range []int{1, 2, 3, 10, 12, 15} {
		signal.Notify(got, syscall.Signal(n))
	}
	go func() {
		for s := range got {
			t.mu.Lock()
			deaf, set, code, after := t.deaf, t.set, t.code, t.after
			t.mu.Unlock()
			switch {
			case deaf:
			case set:
				time.Sleep(after)
				os.Exit(code)
			default:
				n, _ := s.(syscall.Signal)
				os.Exit(128 + int(n))
			}
		}
	}()
}

func (t *trap) ignore() { t.mu.Lock(); t.deaf = true; t.mu.Unlock() }

func (t *trap) exits(code, after string) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set = true
	if t.code, err = strconv.Atoi(code); err != nil || after == "" {
		return err
	}
	t.after, err = time.ParseDuration(after)
	return err
}

func do(t *trap, verb string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch verb {
	case "print":
		return out(strings.Join(args, " ") + "\n")
	case "eprint":
		_, err := fmt.Fprintln(os.Stderr, strings.Join(args, " "))
		return err
	case "args":
		return out(strings.Join(args, "\n") + "\n")
	case "env":
		value, ok := os.LookupEnv(arg(0))
		if !ok {
			os.Exit(1)
		}
		return out(value + "\n")
	case "cwd":
		return told(os.Getwd())
	case "hostname":
		return told(os.Hostname())
	case "stdin":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "ignore":
		t.ignore()
	case "trap":
		return t.exits(arg(0), arg(1))
	case "sleep":
		d, err := time.ParseDuration(arg(0))
		time.Sleep(d)
		return err
	case "forever":
		select {}
	case "bytes":
		data, err := hex.DecodeString(arg(0))
		if err != nil {
			return err
		}
		return out(string(data))
	case "lines":
		return lines(arg(0), arg(1))
	case "tty":
		return out(strconv.FormatBool(isTTY()) + "\n")
	case "sizes":
		return sizes()
	case "exit", "kill", "fill", "line", "hold":
		return number(verb, arg(0))
	default:
		return look(verb, args, arg)
	}
	return nil
}

func out(text string) error {
	_, err := io.WriteString(os.Stdout, text)
	return err
}

func told(text string, err error) error {
	if err != nil {
		return err
	}
	return out(text + "\n")
}

func number(verb, text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	switch verb {
	case "exit":
		os.Exit(n)
	case "kill":
		signal.Reset()
		if err := syscallKill(n); err != nil {
			return err
		}
		time.Sleep(10 * time.Second)
		return fmt.Errorf("still here")
	case "fill":
		return out(strings.Repeat("x", n))
	case "line":
		return line(n)
	case "hold":
		held = append(held, bytes.Repeat([]byte{1}, n))
	}
	return nil
}

var held [][]byte

func syscallKill(n int) error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return self.Signal(syscall.Signal(n))
}

func line(n int) error {
	w := bufio.NewWriterSize(os.Stdout, 64<<10)
	for at := 0; at < n; at += 16 {
		_, _ = w.WriteString(fmt.Sprintf("%015d.", at)[:min(16, n-at)])
	}
	_ = w.WriteByte('\n')
	return w.Flush()
}

func lines(count, every string) error {
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
		if err := out("line " + strconv.Itoa(i) + "\n"); err != nil {
			return err
		}
		time.Sleep(gap)
	}
	return nil
}

// child has standard output and error, and steps in which "," stands for ";".
func child(args []string) *exec.Cmd {
	for i, a := range args {
		if a == "," {
			args[i] = ";"
		}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}
