package containerdtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// inside marks the process that runs in namespaces of its own.
const inside = "NODEKIT_CONTAINERD_INSIDE"

// Unshare runs main in a new network and mount namespace, with a loopback, and
// with /run and /var/lib empty: the calling program runs itself anew with the
// same arguments. It gives the exit code.
func Unshare(main func() int) int {
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "furnish namespaces:", err)
			return 1
		}
		return main()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// Whoever is told to end has things to remove first.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	err := cmd.Start()
	if err == nil {
		ended := make(chan struct{})
		go func() {
			for {
				select {
				case s := <-signals:
					_ = cmd.Process.Signal(s)
				case <-ended:
					return
				}
			}
		}()
		err = cmd.Wait()
		close(ended)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "run in namespaces of its own:", err)
		return 1
	}
	return 0
}

// furnish gives places of their own to what containerd, its shim and CNI keep at
// fixed paths.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return kerneltest.ShowToCrun()
}
