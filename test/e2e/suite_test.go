// Package e2e_test uses the quickstart's node as its users do, and abuses it:
// real containers, real rules, kill -9. Each spec has a network namespace,
// cgroups and directories of its own.
package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/internal/agenttest"
	"github.com/nodekit/nodekit/internal/kerneltest"
)

func TestE2E(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Runc, kerneltest.Shim, kerneltest.Overlay, kerneltest.Cgroup)
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute) // for a machine that is busy
	RunSpecs(t, "the quickstart's node")
}

const (
	vip      = "http://10.96.0.10:80"
	manifest = "../../examples/quickstart/manifests"
)

// node is an agenttest.Node with the quickstart's program on it.
type node struct {
	*agenttest.Node
	program string
	agent   *agenttest.Process
}

// newNode makes a node that ends clean: whatever a spec did, at its end the
// agent is stopped by Ctrl-C and nothing may be left.
func newNode() *node {
	GinkgoHelper()
	program, err := exec.LookPath("quickstart")
	Expect(err).NotTo(HaveOccurred(), "make test-e2e builds it")
	dir, err := os.MkdirTemp("", "nodekit-e2e-")
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Chmod(dir, 0o711)).To(Succeed(), "roots of user namespaces lie below")
	made, err := agenttest.NewNode(dir)
	Expect(err).NotTo(HaveOccurred())
	n := &node{Node: made, program: program}
	DeferCleanup(func() {
		if n.agent != nil {
			AddReportEntry("the agent's output", n.agent.Output.String(), ReportEntryVisibilityFailureOrVerbose)
			Expect(n.agent.Interrupt()).To(Succeed())
			Expect(n.agent.Wait(time.Minute)).To(Succeed(), "the agent ends by Ctrl-C")
		}
		leaks, err := n.Leaks()
		Expect(err).NotTo(HaveOccurred())
		Expect(leaks).To(BeEmpty(), "Ctrl-C leaves nothing behind")
		Expect(n.State).NotTo(BeADirectory(), "Ctrl-C leaves nothing behind")
		Expect(n.Close()).To(Succeed())
		Expect(os.RemoveAll(dir)).To(Succeed())
	})
	return n
}

// start runs the agent and waits until it is ready.
func (n *node) start(more ...string) {
	GinkgoHelper()
	n.launch(more...)
	Eventually(func() error {
		_, err := n.Do("GET", agenttest.StatusURL+"/readyz")
		return err
	}).WithTimeout(time.Minute).Should(Succeed(), "the agent gets ready: %s", n.agent.Output)
}

func (n *node) launch(more ...string) {
	GinkgoHelper()
	var err error
	n.agent, err = n.Start(n.program, append(n.Args(), more...)...)
	Expect(err).NotTo(HaveOccurred())
}

// kill is kill -9 of the agent, and of nothing else.
func (n *node) kill() {
	n.agent.Kill()
	AddReportEntry("the killed agent's output", n.agent.Output.String(), ReportEntryVisibilityFailureOrVerbose)
	n.agent = nil
}

// examples puts the quickstart's manifests on the node.
func (n *node) examples() {
	GinkgoHelper()
	for _, name := range []string{"service.yaml", "web-1.yaml", "web-2.yaml", "client.yaml"} {
		n.example(name)
	}
}

// pods as the status server tells them, by name.
func (n *node) pods() map[string]corev1.Pod {
	body, err := n.Do("GET", agenttest.StatusURL+"/pods")
	if err != nil {
		return nil
	}
	var list corev1.PodList
	if json.Unmarshal([]byte(body), &list) != nil {
		return nil
	}
	pods := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		pods[pod.Name] = pod
	}
	return pods
}

func (n *node) pod(name string) corev1.Pod { return n.pods()[name] }

func ready(pod corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// awaitReady waits until the named pods are ready and gives them.
func (n *node) awaitReady(names ...string) map[string]corev1.Pod {
	GinkgoHelper()
	var pods map[string]corev1.Pod
	Eventually(func() []string {
		pods = n.pods()
		var waiting []string
		for _, name := range names {
			if pod := pods[name]; !ready(pod) {
				waiting = append(waiting, name+": "+agenttest.Print(pod.Status))
			}
		}
		return waiting
	}).WithTimeout(time.Minute).WithPolling(50 * time.Millisecond).Should(BeEmpty())
	return pods
}

// listens waits until the demo's web program answers, which a pod without a
// readiness probe says nothing of.
func (n *node) listens(ip string) {
	GinkgoHelper()
	Eventually(func() (string, error) { return n.Do("GET", "http://"+ip+":8080/") }).Should(ContainSubstring("says"))
}

func (n *node) get(url string) string {
	GinkgoHelper()
	body, err := n.Do("GET", url)
	Expect(err).NotTo(HaveOccurred())
	return body
}

func (n *node) why(name string) string {
	body, err := n.Do("GET", agenttest.StatusURL+"/why/default/"+name+"?format=text")
	if err != nil {
		return err.Error()
	}
	return body
}

func (n *node) summary() stats.Summary {
	GinkgoHelper()
	var summary stats.Summary
	Expect(json.Unmarshal([]byte(n.get(agenttest.StatusURL+"/stats/summary")), &summary)).To(Succeed())
	return summary
}

// log reads the log of one instance of a container.
func (n *node) log(pod, container string, attempt int) ([]agenttest.Line, error) {
	paths, err := filepath.Glob(filepath.Join(n.State, "logs", "default_"+pod+"_*", container, fmt.Sprint(attempt)+".log"))
	if err != nil {
		return nil, err
	}
	if len(paths) != 1 {
		return nil, fmt.Errorf("%d logs of %s/%s attempt %d", len(paths), pod, container, attempt)
	}
	return agenttest.Log(paths[0])
}

// answers calls url many times and tells how often each pod answered.
func (n *node) answers(url string, times int) (map[string]int, error) {
	count := map[string]int{}
	for range times {
		body, err := n.Do("GET", url)
		if err != nil {
			return count, err
		}
		who, _, _ := strings.Cut(body, " ")
		count[who]++
	}
	return count, nil
}

// single is a manifest of a pod with one container.
func single(name string, args ...string) string {
	return singleWith(name, fmt.Sprintf(`"args": %s`, agenttest.Print(args)), "")
}

func singleWith(name, container, spec string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {%s
"terminationGracePeriodSeconds": 1,
"containers": [{"name": "main", "image": "localhost:5010/demo:1", %s}]}}`, name, spec, container)
}

func nodeURL(port int) string { return fmt.Sprintf("http://%s:%d", agenttest.NodeIP, port) }
