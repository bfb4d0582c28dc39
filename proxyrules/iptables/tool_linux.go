package iptables

import (
	"bytes"
	"context"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// toolTimeout is how long a tool may take, the wait for others' lock included.
const toolTimeout = 5 * time.Minute

// tool names the program of a family, such as ip6tables-legacy-restore.
func (d *Dialect) tool(v4 bool, act string) string {
	name := "iptables-"
	if !v4 {
		name = "ip6tables-"
	}
	if d.config.Variant != Any {
		name += string(d.config.Variant) + "-"
	}
	return name + act
}

// save asks for all chains and rules of a family.
func (d *Dialect) save(ctx context.Context, v4 bool) (*saved, error) {
	var all strings.Builder
	for _, table := range tableNames {
		out, err := d.run(ctx, d.tool(v4, "save"), "", "-t", table)
		if err != nil {
			return nil, err
		}
		all.WriteString(out)
	}
	return parseSaved(all.String(), d.config.Prefix), nil
}

// run runs a tool in the dialect's namespace and gives its standard output.
func (d *Dialect) run(ctx context.Context, tool, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	path, err := exec.LookPath(tool)
	if err != nil {
		return "", &ToolError{Tool: tool, Output: "not found", Err: err}
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(d.netNS.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- cmd.Run()
	}()
	if err := <-done; err != nil {
		text := strings.TrimSpace(errOut.String())
		return "", &ToolError{Tool: tool, Output: text[:min(len(text), 2000)], Err: err}
	}
	return out.String(), nil
}
