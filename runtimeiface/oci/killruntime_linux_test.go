//go:build faultpoints

package oci_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var _ = Describe("the kill matrix", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		It("of "+string(program)+" at each of its calls", func(ctx SpecContext) {
			kerneltest.Require(GinkgoTB(), program)
			m := newMatrix()
			m.mortal(program)
			m.each(m.calls(ctx), func(call string) error { return m.killRuntime(ctx, call) })
		}, NodeTimeout(time.Hour))

		It("of "+string(program)+" at each of its calls, with containers that run together", func(ctx SpecContext) {
			kerneltest.Require(GinkgoTB(), program)
			m := newMatrix()
			m.together = true
			m.mortal(program)
			m.each(m.calls(ctx), func(call string) error { return m.killRuntime(ctx, call) })
		}, NodeTimeout(time.Hour))
	}
})

// mortal makes the default handler one that can be killed.
func (m *matrix) mortal(program kerneltest.Need) {
	m.wrap = GinkgoT().TempDir()
	path, err := exec.LookPath(string(program))
	Expect(err).NotTo(HaveOccurred())
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	script := "#!/bin/sh\n" +
		"[ \"$1\" = --root ] || exec " + path + " \"$@\"\n" +
		"for a; do case $a in run|create|start|exec|update|delete) echo $a >> " + m.wrap + "/calls; break;; esac; done\n" +
		"[ -e " + m.wrap + "/plan ] || exec " + path + " \"$@\"\n" +
		mortalEnv + "=" + m.wrap + " exec " + self + " " + path + " \"$@\"\n"
	file := filepath.Join(m.wrap, string(program))
	Expect(os.WriteFile(file, []byte(script), 0o700)).To(Succeed())
	m.handlers = map[string]string{"": file}
	m.fresh()
}

// calls are those of a life that nobody cuts short, with each moment.
func (m *matrix) calls(ctx context.Context) []string {
	l := m.newLife()
	rt, err := oci.Open(m.e.cfg)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.RemoveAll(filepath.Join(m.wrap, "calls"))).To(Succeed())
	Expect(l.live(ctx, rt, func() {})).To(Succeed())
	log, err := os.ReadFile(filepath.Join(m.wrap, "calls"))
	Expect(err).NotTo(HaveOccurred())
	Expect(rt.Close()).To(Succeed())
	Expect(m.finish(ctx, l)).To(Succeed())
	var calls []string
	count := map[string]int{}
	for _, command := range strings.Fields(string(log)) {
		count[command]++
		for _, moment := range mortalMoments[command] {
			calls = append(calls, fmt.Sprintf("%s#%d %s", command, count[command], moment))
		}
	}
	Expect(len(calls)).To(BeNumerically(">", 20))
	return calls
}

// killRuntime kills the OCI runtime once. The call that failed is repeated.
func (m *matrix) killRuntime(ctx context.Context, call string) error {
	l := m.newLife()
	l.lastingExec(call)
	_ = os.Remove(filepath.Join(m.wrap, "calls"))
	_ = os.Remove(filepath.Join(m.wrap, "done"))
	if err := os.WriteFile(filepath.Join(m.wrap, "plan"), []byte(call), 0o600); err != nil {
		return err
	}
	rt, err := oci.Open(m.e.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = rt.Close() }()
	if err := l.live(ctx, rt, func() {}); err != nil {
		if !planDone(m.wrap) {
			return fmt.Errorf("without a kill: %w", err)
		}
		failed := l.name()
		l.ExecTime = ""
		// Whether the program ran is not always known.
		l.cut = strings.HasPrefix(call, "run#") || strings.HasPrefix(call, "start#")
		if verr := l.verify(ctx, rt); verr != nil {
			return fmt.Errorf("after the kill, %w: %w", err, verr)
		}
		if over, verr := l.cutShort(ctx, rt); verr != nil {
			return verr
		} else if over {
			l.Step = stepStopSandbox
		}
		if err := l.live(ctx, rt, func() {}); err != nil {
			return fmt.Errorf("during %s, repeated: %w", failed, err)
		}
	}
	if !planDone(m.wrap) {
		GinkgoWriter.Println("not met:", call)
	}
	if err := l.verify(ctx, rt); err != nil {
		return fmt.Errorf("at its end: %w", err)
	}
	if err := rt.Close(); err != nil {
		return err
	}
	return m.finish(ctx, l)
}

// cutShort tells whether the pod has ended with the OCI runtime.
func (l *life) cutShort(ctx context.Context, rt *oci.Runtime) (bool, error) {
	list, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{State: runtimeiface.ContainerExited})
	return l.cut && slices.ContainsFunc(list, func(c runtimeiface.Container) bool { return c.ExitCode >= 128 }), err
}
