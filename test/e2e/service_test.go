package e2e_test

import (
	"bufio"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/agenttest"
)

var _ = Describe("a Service of two pods", func() {
	It("answers by VIP and node port, also to a backend, and lets an unready pod go without breaking its connections", func() {
		n := newNode()
		n.examples()
		n.start("-v") // for the time of each change of the rules
		pods := n.awaitReady("web-1", "web-2", "client")

		By("each pod answers with its own IP through VIP and node port")
		for _, front := range []string{vip, nodeURL(30080)} {
			Eventually(func(g Gomega) {
				count, err := n.answers(front+"/", 10)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(count).To(And(HaveKey("web-1"), HaveKey("web-2")))
			}).WithTimeout(time.Minute).Should(Succeed())
			for range 10 {
				fields := strings.Fields(n.get(front + "/"))
				Expect(fields[1]).To(Equal(pods[fields[0]].Status.PodIP))
			}
		}

		By("a backend reaches itself through the Service (hairpin)")
		direct := "http://" + pods["web-1"].Status.PodIP + ":8080"
		for _, front := range []string{vip, nodeURL(30080)} {
			Eventually(func(g Gomega) {
				count, err := n.answers(direct+"/call?url="+url.QueryEscape(front+"/"), 10)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(count).To(And(HaveKey("web-1"), HaveKey("web-2")))
			}).WithTimeout(time.Minute).Should(Succeed())
		}

		By("the client pod sees both")
		Eventually(func(g Gomega) {
			lines, err := n.log("client", "client", 0)
			g.Expect(err).NotTo(HaveOccurred())
			text := fmt.Sprint(lines)
			g.Expect(text).To(And(ContainSubstring("answered by web-1"), ContainSubstring("answered by web-2")))
		}).WithTimeout(time.Minute).Should(Succeed())

		By("the trace names the pods that can answer")
		trace := n.get(agenttest.StatusURL + "/proxy/trace?proto=tcp&format=text&from=" + pods["client"].Status.PodIP + "&to=10.96.0.10:80")
		Expect(trace).To(And(ContainSubstring(pods["web-1"].Status.PodIP), ContainSubstring(pods["web-2"].Status.PodIP)))

		By("web-1 turns unready while a connection to it is open through the VIP")
		stream, close := n.streamOf("web-1")
		defer close()
		turned := time.Now()
		_, err := n.Do("POST", direct+"/readyz?ready=false")
		Expect(err).NotTo(HaveOccurred())
		var lastAnswer time.Time
		Eventually(func(g Gomega) {
			count, err := n.answers(vip+"/", 20)
			g.Expect(err).NotTo(HaveOccurred())
			if count["web-1"] > 0 {
				lastAnswer = time.Now()
			}
			g.Expect(count).To(HaveLen(1))
			g.Expect(count).To(HaveKey("web-2"))
		}).WithTimeout(time.Minute).WithPolling(time.Millisecond).Should(Succeed())
		Expect(ready(n.pod("web-1"))).To(BeFalse())
		AddReportEntry("unready", fmt.Sprintf("told at 0, last answer by it within %v (the probe looks once a second); "+
			"from the probe's failing answer to the kernel's new rules %v; why:\n%s",
			lastAnswer.Sub(turned), n.verdictToRules(turned), n.why("web-1")), ReportEntryVisibilityAlways)
		before := stream()
		Eventually(stream).WithTimeout(time.Minute).Should(BeNumerically(">", before+5), "the open connection goes on")

		By("web-1 comes back")
		_, err = n.Do("POST", direct+"/readyz?ready=true")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() (map[string]int, error) { return n.answers(vip+"/", 20) }).WithTimeout(time.Minute).Should(HaveKey("web-1"))

		By("a Service without ready pods refuses")
		for _, name := range []string{"web-1", "web-2"} {
			_, err = n.Do("POST", "http://"+pods[name].Status.PodIP+":8080/readyz?ready=false")
			Expect(err).NotTo(HaveOccurred())
		}
		Eventually(func() error { _, err := n.Do("GET", vip+"/"); return err }).WithTimeout(time.Minute).
			Should(MatchError(ContainSubstring("connection refused")))
	})
})

var applied = regexp.MustCompile(`(?m)^([0-9:.]{12}) proxy .*"rules applied".*"elements"=[1-9]`)

// verdictToRules is the time from web-1's first failing answer to a probe,
// which is the verdict as its failureThreshold is 1, to the rules that came of
// it, by the logs of the container and of the agent. The stamp of a container's
// line is of when it was read, so the rules may well be earlier.
func (n *node) verdictToRules(turned time.Time) time.Duration {
	GinkgoHelper()
	lines, err := n.log("web-1", "web", 0)
	Expect(err).NotTo(HaveOccurred())
	at := slices.IndexFunc(lines, func(l agenttest.Line) bool { return l.Text == "web: found unready" })
	Expect(at).To(BeNumerically(">=", 0))
	for _, match := range applied.FindAllStringSubmatch(n.agent.Output.String(), -1) {
		when, err := time.ParseInLocation("2006-01-02 15:04:05.000", turned.Format("2006-01-02 ")+match[1], time.Local)
		Expect(err).NotTo(HaveOccurred())
		if when.After(turned) {
			return when.Sub(lines[at].Time)
		}
	}
	Fail("no rules were changed after the verdict")
	return 0
}

// streamOf opens /stream through the VIP until the named pod answers, and gives
// how many lines have come so far.
func (n *node) streamOf(pod string) (lines func() int, closeIt func()) {
	GinkgoHelper()
	for range 50 {
		response, err := n.Client(time.Minute).Get(vip + "/stream")
		Expect(err).NotTo(HaveOccurred())
		reader := bufio.NewReader(response.Body)
		line, err := reader.ReadString('\n')
		Expect(err).NotTo(HaveOccurred())
		if !strings.HasPrefix(line, pod+" ") {
			Expect(response.Body.Close()).To(Succeed())
			continue
		}
		count := make(chan int, 1)
		count <- 1
		go func() {
			for {
				if _, err := reader.ReadString('\n'); err != nil {
					return
				}
				count <- <-count + 1
			}
		}()
		return func() int { c := <-count; count <- c; return c }, func() { _ = response.Body.Close() }
	}
	Fail("no stream reached " + pod)
	return nil, nil
}
