package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("mount propagation", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		Describe("of "+string(program), func() { propagation(program) })
	}
})

func propagation(program kerneltest.Need) {
	var e *env
	var volume string
	BeforeEach(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		e.open()
		e.image = e.pull(e.images.Prog)
		volume = GinkgoT().TempDir()
		// Not a tmpfs: that cannot be mounted with mapped IDs before Linux 6.3.
		Expect(unix.Mount(volume, volume, "", unix.MS_BIND, "")).To(Succeed())
		DeferCleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
		Expect(unix.Mount("", volume, "", unix.MS_SHARED, "")).To(Succeed())
		for _, sub := range []string{"host", "container"} {
			Expect(os.Mkdir(filepath.Join(volume, sub), 0o755)).To(Succeed())
		}
	})
	bind := func(options ...string) func(*runtimeiface.ContainerSpec) {
		return func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "bind", Source: volume, Destination: "/vol", Options: options}}
		}
	}
	// mountAt mounts a tmpfs with a file in it.
	mountAt := func(path string) error {
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(path, "file"), nil, 0o600)
	}
	// inMounts does f on a thread in the process's mount namespace and root.
	inMounts := func(pid int, f func() error) error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			done <- func() error {
				ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
				if err != nil {
					return err
				}
				defer func() { _ = ns.Close() }()
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					return err
				}
				if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
					return err
				}
				return f()
			}()
		}()
		return <-done
	}

	for option, want := range map[string][2]bool{ // node to container, container to node
		"rprivate": {false, false}, "": {false, false}, "rslave": {true, false}, "rshared": {true, true},
	} {
		It("goes the ways of \""+option+"\"", func() {
			options := []string{"rbind", option}
			if option == "" {
				options = nil
			}
			pid := e.status(e.start(e.sandbox(), "app", "forever", bind(options...))).PID
			Expect(mountAt(filepath.Join(volume, "host"))).To(Succeed())
			_, err := os.Stat(fmt.Sprintf("/proc/%d/root/vol/host/file", pid))
			Expect(err == nil).To(Equal(want[0]), "%v", err)
			Expect(inMounts(pid, func() error { return mountAt("/vol/container") })).To(Succeed())
			_, err = os.Stat(filepath.Join(volume, "container/file"))
			Expect(err == nil).To(Equal(want[1]), "%v", err)
			// What else the container mounts is its own.
			Expect(inMounts(pid, func() error { return mountAt("/tmp") })).To(Succeed())
			Expect(filepath.Glob(filepath.Join(e.cfg.Root, "images/containers/*/rootfs/tmp/file"))).To(BeEmpty())
		})
	}

	It("leads into a user namespace, and not out of it", func() {
		sb := e.sandbox(userNamespace)
		pid := e.status(e.start(sb, "slave", "forever", bind("rslave"))).PID
		Expect(mountAt(filepath.Join(volume, "host"))).To(Succeed())
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root/vol/host/file", pid))
		Expect(err).NotTo(HaveOccurred())
		spec := runtimeiface.ContainerSpec{Name: "shared", Image: e.image}
		bind("rshared")(&spec)
		_, err = e.rt.CreateContainer(e.ctx(), sb, spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("Mounts[0].Options")))
	})

	It("is refused where there is none", func() {
		Expect(unix.Mount("", volume, "", unix.MS_PRIVATE, "")).To(Succeed())
		sb := e.sandbox()
		for _, option := range []string{"rslave", "rshared", "slave", "shared"} {
			spec := runtimeiface.ContainerSpec{Name: "app", Image: e.image}
			bind(option)(&spec)
			_, err := e.rt.CreateContainer(e.ctx(), sb, spec)
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), option)
			Expect(err).To(MatchError(ContainSubstring("Mounts[0].Source")), option)
		}
	})
}
