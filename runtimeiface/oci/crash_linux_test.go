package oci_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var _ = Describe("a kill", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })

	It("of the agent ends no container, loses no line and no exit", func() {
		e.close()
		a := e.agent(agentJob{Prefix: "killed", Pods: 1, Steps: "lines 300 10ms ; exit 5"})
		id, ok := a.next("done")
		Expect(ok).To(BeTrue(), "the agent starts a pod")
		a.kill()
		time.Sleep(100 * time.Millisecond) // output that nobody but the shim sees

		e.open()
		running := e.status(id)
		Expect(running.State).To(Equal(runtimeiface.ContainerRunning))
		Expect(running.PID).NotTo(BeZero())
		e.close()
		Eventually(func() bool { return processGone(running.PID) }, "1m", "10ms").Should(BeTrue(), "the program ends while no agent is there")
		gone := time.Now()

		e.open()
		c := e.exited(id) // the shim tells it once it is on disk
		Expect(c.ExitCode).To(BeEquivalentTo(5))
		Expect(c.FinishedAt).To(BeTemporally("~", gone, time.Second))
		Expect(c.StartedAt).To(BeTemporally("==", running.StartedAt))
		var want strings.Builder
		for i := range 300 {
			want.WriteString("line " + strconv.Itoa(i) + "\n")
		}
		Expect(e.log(c)).To(Equal(want.String()))
	})

	It("of the agent at any moment leaves nothing that counts for nothing", func() {
		e.close()
		rounds := 20
		if n, err := strconv.Atoi(os.Getenv("NODEKIT_KILL_ROUNDS")); err == nil {
			rounds = n
		}
		random := rand.New(rand.NewPCG(GinkgoRandomSeed64(), 1))
		for round := range rounds {
			prefix := "round" + strconv.Itoa(round)
			e.cfg.WarmShims = round % 3
			a := e.agent(agentJob{Prefix: prefix, Pods: 3, Steps: "forever", Forever: true})
			_, ok := a.next("open")
			Expect(ok).To(BeTrue(), "the agent opens")
			time.Sleep(time.Duration(random.IntN(200_000)) * time.Microsecond)
			a.kill()
			e.cfg.WarmShims = 0

			e.open()
			list, err := e.rt.ListSandboxes(e.ctx(), runtimeiface.SandboxFilter{})
			Expect(err).NotTo(HaveOccurred())
			Expect(len(list)).To(BeNumerically("<=", 3))
			for _, s := range list {
				Expect(e.rt.RemoveSandbox(e.ctx(), s.ID)).To(Succeed())
			}
			Expect(e.rt.Purge(e.ctx())).To(Succeed())
			Eventually(e.leftovers, "1m", "20ms").Should(BeEmpty(), "round %d", round)
			e.close()
		}
		e.open()
	})

	It("of the shim makes the pod not ready and the exits unknown", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "ignore ; forever")
		ended := e.start(sb, "ended", "exit 3")
		e.exited(ended)
		pid := e.status(id).PID
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		shimPID := s.PID
		Expect(unix.Kill(shimPID, unix.SIGKILL)).To(Succeed())

		c := e.exited(id)
		Expect(c.ExitCode).To(BeEquivalentTo(runtimeiface.ExitCodeUnknown))
		Expect(c.Reason).To(Equal(runtimeiface.ReasonUnknown))
		Eventually(func() bool { return processGone(pid) }, "1m", "5ms").Should(BeTrue())
		Eventually(func() runtimeiface.SandboxState {
			s, err = e.rt.SandboxStatus(e.ctx(), sb)
			return s.State
		}, "5s", "5ms").Should(Equal(runtimeiface.SandboxNotReady))
		Expect(s.IPs).To(BeEmpty())
		Eventually(func() bool { return processGone(shimPID) }, "1m", "5ms").Should(BeTrue(), "no zombie is left of the shim")
		_, err = e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "late", Image: e.image})
		Expect(err).To(MatchError(runtimeiface.ErrNotRunning))

		e.reopen()
		Expect(e.status(id).Reason).To(Equal(runtimeiface.ReasonUnknown))
		Expect(e.status(id).FinishedAt).To(BeTemporally("==", c.FinishedAt))
		Expect(e.status(ended).ExitCode).To(BeEquivalentTo(3))
	})

	It("of the shim at any moment of a container leaves nothing", func() {
		random := rand.New(rand.NewPCG(GinkgoRandomSeed64(), 2))
		for round := range 15 {
			sb := e.sandbox()
			s, err := e.rt.SandboxStatus(e.ctx(), sb)
			Expect(err).NotTo(HaveOccurred())
			time.AfterFunc(time.Duration(random.IntN(60_000))*time.Microsecond, func() { _ = unix.Kill(s.PID, unix.SIGKILL) })
			id, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "app", Image: e.image})
			if err == nil && e.rt.StartContainer(e.ctx(), id) == nil {
				Expect(e.exited(id).Reason).To(Equal(runtimeiface.ReasonUnknown), "round %d", round)
			}
			Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed(), "round %d", round)
			Eventually(e.leftovers, "1m", "20ms").Should(Equal([]string{"interface nodekit0"}), "round %d", round)
		}
	})

	It("of the shim ends the OCI runtime that it called", func() {
		dir := GinkgoT().TempDir()
		hang := filepath.Join(dir, "hang")
		Expect(unix.Mkfifo(hang, 0o600)).To(Succeed())
		script := "#!/bin/sh\nfor a; do if [ \"$a\" = run ]; then : > " + dir + "/called; read x < " + hang + "; fi; done\nexec runc \"$@\"\n"
		Expect(os.WriteFile(filepath.Join(dir, "slow"), []byte(script), 0o700)).To(Succeed())
		e.close()
		e.cfg.RuntimeHandlers = map[string]string{"slow": filepath.Join(dir, "slow")}
		e.open()
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "slow" })
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		failed := make(chan error)
		go func() {
			id, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "app", Image: e.image})
			if err == nil {
				err = e.rt.StartContainer(e.ctx(), id)
			}
			failed <- err
		}()
		Eventually(filepath.Join(dir, "called"), "1m", "5ms").Should(BeAnExistingFile())
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		Eventually(failed, "1m").Should(Receive(HaveOccurred()))
		Eventually(e.leftovers, "1m", "20ms").ShouldNot(ContainElement(HavePrefix("process")))
	})

	It("of the shim while no agent is there is found by the next", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "forever", func(s *runtimeiface.ContainerSpec) { s.PID = runtimeiface.NamespaceHost })
		pid := e.status(id).PID
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		e.open()
		Expect(e.status(id).Reason).To(Equal(runtimeiface.ReasonUnknown))
		Eventually(func() bool { return processGone(pid) }, "1m", "5ms").Should(BeTrue())
	})

	It("is not survived by the lock of the root, which keeps a second agent out", func() {
		_, err := oci.Open(e.cfg)
		Expect(errors.Is(err, oci.ErrLocked)).To(BeTrue(), "%v", err)
	})
})

// GinkgoRandomSeed64 is the suite's seed, so that a failure can be repeated.
func GinkgoRandomSeed64() uint64 { return uint64(GinkgoRandomSeed()) }
