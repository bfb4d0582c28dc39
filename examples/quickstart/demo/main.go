// Command demo is what the quickstart's pods run: a web server that says which
// pod answered, its helpers, and a client that calls it. One small static
// program, so that one small image serves every container.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `demo: the program inside the quickstart's pods

  demo web                 serve HTTP on :8080; see below
  demo note FILE WORDS...  write WORDS into FILE and exit (the init container)
  demo clock FILE          keep the time in FILE (the sidecar)
  demo call URL            call URL twice a second and print who answered
  demo check FILE          exit 0 if FILE is there (an exec probe)
  demo sleep               do nothing until told to stop
  demo exit CODE           exit with CODE

web answers
  /            who answered, as one line of text
  /healthz     200 while it lives
  /readyz      200 while it is ready; POST /readyz?ready=false turns it
  /stream      a line every 100 ms until the client leaves
  /call?url=U  calls U from inside this pod and gives its answer
  /crash?code=N, /burn?cpu=500ms, /touch?mib=64, /lines?n=100
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Print(usage)
		return errors.New("no command")
	}
	command, args := args[0], args[1:]
	need := map[string]int{"note": 2, "clock": 1, "call": 1, "check": 1, "exit": 1}[command]
	if len(args) < need {
		return fmt.Errorf("%s: %d more arguments wanted, see demo's usage", command, need-len(args))
	}
	switch command {
	case "web":
		return serve(ctx)
	case "note":
		fmt.Println("init: writing", args[0])
		return os.WriteFile(args[0], []byte(strings.Join(args[1:], " ")+"\n"), 0o644)
	case "clock":
		return clock(ctx, args[0])
	case "call":
		return call(ctx, args[0])
	case "check":
		_, err := os.Stat(args[0])
		return err
	case "sleep":
		<-ctx.Done()
		return nil
	case "exit":
		var code int
		if _, err := fmt.Sscan(args[0], &code); err != nil {
			return fmt.Errorf("exit code %q: %w", args[0], err)
		}
		fmt.Println("exiting with", code)
		os.Exit(code)
	}
	return fmt.Errorf("no command %q", command)
}
