package e2e_test

import (
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/agenttest"
)

var _ = Describe("following a log", func() {
	It("ends with the instance that it follows, though the next one runs at once", func() {
		n := newNode()
		n.examples()
		n.start()
		n.awaitReady("client")
		done := make(chan error, 1)
		go func() {
			response, err := n.Client(20 * time.Second).Get(agenttest.StatusURL + "/containerLogs/default/client/client?follow=true")
			if err == nil {
				defer response.Body.Close()
				_, err = response.Body.Read(make([]byte, 1)) // it is open
				started := err == nil
				for buffer := make([]byte, 4096); err == nil; {
					_, err = response.Body.Read(buffer)
				}
				if started && err.Error() == "EOF" {
					err = nil
				}
			}
			done <- err
		}()
		Consistently(done).WithTimeout(time.Second).ShouldNot(Receive())
		Expect(syscall.Kill(n.process("/bin/demo", "call"), syscall.SIGKILL)).To(Succeed())
		Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
	})
})

// process finds the one of this node's containers that runs program with arg.
func (n *node) process(program, arg string) int {
	GinkgoHelper()
	if pids := n.processes(program, arg); len(pids) > 0 {
		return pids[0]
	}
	Fail("no container runs " + program + " " + arg)
	return 0
}
