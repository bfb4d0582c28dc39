package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/internal/agenttest"
)

var _ = Describe("kill -9 of the agent", func() {
	It("while pods run: nothing restarts, no line is lost, exits meanwhile are true, nobody turns unready", func() {
		n := newNode()
		n.examples()
		Expect(n.Write("job.json", singleWith("job", `"args": ["web"]`, `"restartPolicy": "Never",`))).To(Succeed())
		n.start()
		before := n.awaitReady("web-1", "web-2", "client", "job")
		direct := func(pod string) string { return "http://" + before[pod].Status.PodIP + ":8080" }
		n.listens(before["job"].Status.PodIP)

		n.kill()
		By("a hundred thousand lines while nobody watches")
		_, err := n.Do("POST", direct("web-1")+"/lines?n=100000")
		Expect(err).NotTo(HaveOccurred())
		By("an exit while nobody watches")
		exited := time.Now()
		_, err = n.Do("POST", direct("job")+"/crash?code=42")
		Expect(err).To(HaveOccurred(), "the connection dies with the program")
		time.Sleep(2 * time.Second) // long enough to tell the time of the exit from that of the restart

		n.launch()
		var flips []string
		Eventually(func(g Gomega) {
			pods := n.pods()
			for _, name := range []string{"web-1", "web-2", "client"} {
				pod, known := pods[name]
				if known && pod.Status.Phase == corev1.PodRunning && !ready(pod) {
					flips = append(flips, agenttest.Print(pod.Status))
				}
			}
			g.Expect(pods["job"].Status.Phase).To(Equal(corev1.PodFailed))
			g.Expect(ready(pods["web-1"])).To(BeTrue())
		}).WithTimeout(time.Minute).WithPolling(5 * time.Millisecond).Should(Succeed())
		Consistently(func() bool {
			pods := n.pods()
			return ready(pods["web-1"]) && ready(pods["web-2"]) && ready(pods["client"])
		}).WithTimeout(3 * time.Second).WithPolling(20 * time.Millisecond).Should(BeTrue())
		Expect(flips).To(BeEmpty(), "a ready pod was told unready")

		after := n.pods()
		for _, name := range []string{"web-1", "web-2", "client"} {
			Expect(instances(after[name])).To(Equal(instances(before[name])), "no container restarts")
			Expect(after[name].Status.PodIP).To(Equal(before[name].Status.PodIP))
		}
		ended := after["job"].Status.ContainerStatuses[0].State.Terminated
		Expect(ended).NotTo(BeNil())
		Expect(ended.ExitCode).To(BeEquivalentTo(42))
		Expect(ended.FinishedAt.Time).To(BeTemporally("~", exited, time.Second+time.Millisecond), "status times have whole seconds")

		lines, err := n.log("web-1", "web", 0)
		Expect(err).NotTo(HaveOccurred())
		next := 0
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line.Text, "line "); ok {
				Expect(rest).To(Equal(fmt.Sprint(next)))
				next++
			}
		}
		Expect(next).To(Equal(100000), "lines in the log")

		By("the Service still answers by both")
		Eventually(func() (map[string]int, error) { return n.answers(vip+"/", 20) }).WithTimeout(time.Minute).
			Should(And(HaveKey("web-1"), HaveKey("web-2")))
	})

	It("at random moments of pod creation, 50 times: nothing leaks and the pods come up", func() {
		n := newNode()
		n.examples()
		seed := uint64(GinkgoRandomSeed())
		random := rand.New(rand.NewPCG(seed, 0))
		AddReportEntry("seed", seed)
		for range 50 {
			n.launch()
			time.Sleep(time.Duration(random.Int64N(int64(1200 * time.Millisecond))))
			n.kill()
			if random.IntN(3) == 0 { // creation from the start again
				Expect(n.Delete("web-2.yaml")).To(Or(Succeed(), HaveOccurred()))
			} else {
				n.example("web-2.yaml")
			}
		}
		n.example("web-2.yaml")
		n.start()
		pods := n.awaitReady("web-1", "web-2", "client")

		By("counting what is there: one of each, and no more")
		shims, err := agenttest.Processes("nodekit-shim " + n.Dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(shims).To(HaveLen(len(pods)), "one shim a pod")
		Expect(n.census()).To(Equal(census{pods: 3, containers: 5, veths: 3}))
		Eventually(func() (map[string]int, error) { return n.answers(vip+"/", 20) }).WithTimeout(time.Minute).
			Should(And(HaveKey("web-1"), HaveKey("web-2"), HaveLen(2)))
	})
})

// instances are the container IDs and restart counts of a pod, in order.
func instances(pod corev1.Pod) []string {
	var all []string
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		all = append(all, fmt.Sprint(status.Name, " ", status.ContainerID, " ", status.RestartCount))
	}
	return all
}
