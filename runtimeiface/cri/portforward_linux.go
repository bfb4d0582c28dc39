package cri

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dialInside dials in the network namespace of a process that is the sandbox's:
// its cgroup is named after the sandbox, else the number means another process
// here than for the runtime.
func dialInside(ctx context.Context, pid int, sandboxID, address string) (net.Conn, error) {
	if pid <= 0 {
		return nil, errNotInside
	}
	target, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, errNotInside
	}
	defer func() { _ = target.Close() }()
	// Looked at with the namespace in hand: the number may have been given anew.
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !bytes.Contains(cgroup, []byte(sandboxID)) {
		return nil, errNotInside
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{nil, errNotInside}
			return
		}
		defer func() { _ = own.Close() }()
		if unix.Setns(int(target.Fd()), unix.CLONE_NEWNET) != nil {
			runtime.UnlockOSThread()
			done <- result{nil, errNotInside}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
