package oci_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// inside marks the process that runs in a network namespace of its own.
const inside = "NODEKIT_OCI_TEST_INSIDE"

// TestMain runs all tests in new namespaces: the network is the node's for the
// runtimes under test and for the tests that look at it, the mounts end with it.
func TestMain(m *testing.M) {
	if os.Getenv(mortalEnv) != "" {
		os.Exit(mortalMain())
	}
	if os.Getenv(agentEnv) != "" {
		os.Exit(agentMain())
	}
	if os.Geteuid() != 0 || os.Getenv(inside) != "" || os.Getenv("NODEKIT_NEEDS") == "none" {
		if os.Getenv(inside) != "" {
			if err := furnish(); err != nil {
				fmt.Fprintln(os.Stderr, "furnish namespaces of the tests:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "run tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// furnish makes the namespaces fit for a node.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// Nothing goes out to the machine, but what is mounted here propagates here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return kerneltest.ShowToCrun()
}
