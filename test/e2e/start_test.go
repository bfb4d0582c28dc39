package e2e_test

import (
	"net"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/agenttest"
)

var _ = Describe("a start that cannot go well", func() {
	It("ends with the reason, soon and clean, when the status port is taken", func() {
		n := newNode()
		n.examples()
		var taken net.Listener
		Expect(n.NetNS.Do(func() (err error) {
			taken, err = net.Listen("tcp", "127.0.0.1:10255")
			return err
		})).To(Succeed())
		defer taken.Close()
		for _, more := range [][]string{nil, {"--once"}} {
			n.launch(more...)
			agent := n.agent
			n.agent = nil
			Expect(agent.Wait(30*time.Second)).To(MatchError(ContainSubstring("exit status 1")), "output: %s", agent.Output)
			Expect(agent.Output.String()).To(ContainSubstring("listen tcp 127.0.0.1:10255: bind: address already in use"))
			Expect(n.State).NotTo(BeADirectory())
		}
	})

	It("leaves the bridge and the rules of a node that runs alone", func() {
		n := newNode()
		n.examples()
		n.start()
		n.awaitReady("web-1", "web-2", "client")
		second, err := n.Start(n.program, append(n.Args(), "--root", n.Dir+"/other", "--cgroup", n.Cgroup+"-other",
			"--registry", "", "--listen", "127.0.0.1:10256", "--once")...)
		Expect(err).NotTo(HaveOccurred())
		Expect(second.Wait(30*time.Second)).To(MatchError(ContainSubstring("exit status 1")), "output: %s", second.Output)
		Expect(second.Output.String()).To(ContainSubstring("bridge nodekit0 is another quickstart's"))
		Expect(n.Dir + "/other").NotTo(BeADirectory())
		_, err = n.Do("GET", vip)
		Expect(err).NotTo(HaveOccurred(), "the first still answers")
		_, err = n.Do("GET", agenttest.StatusURL+"/readyz")
		Expect(err).NotTo(HaveOccurred())
	})
})
