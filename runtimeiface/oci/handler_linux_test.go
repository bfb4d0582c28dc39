package oci_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var _ = Describe("runtime handlers", func() {
	var e *env
	with := func(name string) func(*runtimeiface.SandboxSpec) {
		return func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = name }
	}
	BeforeEach(func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Crun)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"small": "crun"}
		e.open()
		e.image = e.pull(e.images.Prog)
	})

	// stateOf tells which handlers' runtimes know a container.
	stateOf := func(id string) []string {
		found, err := filepath.Glob(filepath.Join(e.cfg.Root, "runtime/*", id))
		Expect(err).NotTo(HaveOccurred())
		for i, path := range found {
			found[i] = filepath.Base(filepath.Dir(path))
		}
		return found
	}

	It("are chosen by the sandbox, and stay chosen over a restart", func() {
		big, small := e.sandbox(), e.sandbox(with("small"))
		a, b := e.start(big, "app", "forever"), e.start(small, "app", "forever")
		Expect(stateOf(a)).To(Equal([]string{"default"}))
		Expect(stateOf(b)).To(Equal([]string{"small"}))
		e.reopen()
		for sandbox, container := range map[string]string{big: a, small: b} {
			Expect(e.status(container).State).To(Equal(runtimeiface.ContainerRunning))
			later := e.start(sandbox, "later", "forever")
			Expect(stateOf(later)).To(Equal(stateOf(container)))
			Expect(e.rt.StopContainer(e.ctx(), container, 0)).To(Succeed())
			Expect(e.rt.RemoveContainer(e.ctx(), container)).To(Succeed())
			Expect(stateOf(container)).To(BeEmpty())
		}
	})

	It("that are not configured any more let their pods be stopped and removed", func() {
		alive, dead := e.sandbox(with("small")), e.sandbox(with("small"))
		a, b := e.start(alive, "app", "forever"), e.start(dead, "app", "forever")
		half := e.create(dead, "half", "forever")
		keeper, err := e.rt.SandboxStatus(e.ctx(), dead)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		Expect(unix.Kill(keeper.PID, unix.SIGKILL)).To(Succeed())
		e.cfg.RuntimeHandlers = nil
		e.open()

		Expect(e.status(a).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(e.status(b).Reason).To(Equal(runtimeiface.ReasonUnknown))
		Expect(append(stateOf(b), stateOf(half)...)).To(BeEmpty())
		_, err = e.rt.CreateContainer(e.ctx(), alive, runtimeiface.ContainerSpec{Name: "more", Image: e.image})
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		_, err = e.rt.RunSandbox(e.ctx(), func() runtimeiface.SandboxSpec { s := e.sandboxSpec(); s.RuntimeHandler = "small"; return s }())
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(e.rt.StopContainer(e.ctx(), a, 0)).To(Succeed())
		for _, sandbox := range []string{alive, dead} {
			Expect(e.rt.RemoveSandbox(e.ctx(), sandbox)).To(Succeed())
		}
		Expect(stateOf(a)).To(BeEmpty())
	})

	It("are given their arguments at every call", func() {
		dir := GinkgoT().TempDir()
		program := filepath.Join(dir, "picky")
		script := "#!/bin/sh\n[ \"$1\" = --version ] && exec runc --version\ncase \" $* \" in *\" --picky=yes \"*) ;; *) echo \"$@\" >> " + dir + "/bad; exit 1;; esac\n" +
			"n=$#; for a; do [ \"$a\" = --picky=yes ] || set -- \"$@\" \"$a\"; done; shift $n; exec runc \"$@\"\n"
		Expect(os.WriteFile(program, []byte(script), 0o700)).To(Succeed())
		e.close()
		e.cfg.RuntimeHandlers = map[string]string{"picky": program}
		e.cfg.RuntimeArgs = map[string][]string{"picky": {"--picky=yes"}}
		e.open()
		sandbox := e.sandbox(with("picky"))
		id := e.start(sandbox, "app", "forever")
		code, err := e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "3"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(3))
		keeper, err := e.rt.SandboxStatus(e.ctx(), sandbox)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		Expect(unix.Kill(keeper.PID, unix.SIGKILL)).To(Succeed())
		e.cfg.RuntimeHandlers, e.cfg.RuntimeArgs = nil, nil
		e.open()
		Expect(e.rt.RemoveSandbox(e.ctx(), sandbox)).To(Succeed())
		Expect(filepath.Join(dir, "bad")).NotTo(BeAnExistingFile())
	})

	It("have what they lack told before anything is made", func() {
		e.close()
		cfg := e.cfg
		cfg.RuntimeHandlers = map[string]string{"gone": "/no/such/runtime"}
		_, err := oci.Open(cfg)
		Expect(errors.Is(err, os.ErrNotExist)).To(BeTrue(), "%v", err)
		cfg.RuntimeHandlers, cfg.RuntimeArgs = nil, map[string][]string{"gone": {"--debug"}}
		_, err = oci.Open(cfg)
		Expect(err).To(MatchError(ContainSubstring(`RuntimeArgs: "gone" is no handler`)))
		e.open()
	})

	for _, name := range []string{"", "small"} {
		It("keep a command in every cgroup of its container: "+strconv.Quote(name), func() {
			id := e.start(e.sandbox(with(name)), "app", "forever")
			ctx, cancel := context.WithCancel(e.ctx())
			ended := make(chan error)
			go func() {
				_, err := e.rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/prog", "forever"}})
				ended <- err
			}()
			first := e.status(id)
			child := 0
			Eventually(func() int {
				for _, pid := range processesOf("/prog\x00forever\x00") {
					of := cgroupsOf(pid)
					path := cmp.Or(of["memory"], of[""]) // version 1, or 2
					if pid != first.PID && (path == first.Cgroup || strings.HasPrefix(path, first.Cgroup+"/exec-")) {
						child = pid
					}
				}
				return child
			}, "5s", "5ms").ShouldNot(BeZero())
			Eventually(func() map[string]string {
				of := cgroupsOf(child)
				for hierarchy, path := range of {
					if path != first.Cgroup && !strings.HasPrefix(path, first.Cgroup+"/exec-") {
						return of
					}
					delete(of, hierarchy)
				}
				return of
			}, "5s", "5ms").Should(BeEmpty(), "cgroups outside the container's")
			cancel()
			Expect(<-ended).To(MatchError(context.Canceled))
			Eventually(func() bool { return processGone(child) }, "1m", "5ms").Should(BeTrue())
		})
	}
})

// processesOf gives those with a command line.
func processesOf(cmdline string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if data, _ := os.ReadFile(file); string(data) == cmdline {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// cgroupsOf reads proc_pid_cgroup(7), by hierarchy: those that have a container's
// path when the runtime put its process there.
func cgroupsOf(pid int) map[string]string {
	out := map[string]string{}
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			out[strings.TrimPrefix(parts[1], "name=")] = parts[2]
		}
	}
	return out
}
