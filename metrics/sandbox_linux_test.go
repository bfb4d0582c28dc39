package metrics_test

import (
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("the sandbox of a pod", func() {
	// tree has a pause process in a cgroup of its own.
	tree := func() (*machineTree, metrics.Target) {
		GinkgoHelper()
		t := newTree()
		sandbox := metrics.Target{Cgroup: "/kubepods/pod1/s1", Namespace: "default", Pod: "web", PodUID: "u1", ID: "s1",
			Image: "registry.local/pause:1", StartedAt: podTarget.StartedAt.Add(time.Second)}
		Expect(copyDir(t.dir+"/cgroup/kubepods/pod1/c1", t.dir+"/cgroup/kubepods/pod1/s1")).To(Succeed())
		t.to.set(podTarget, sandbox, appTarget, sidecarTarget)
		return t, sandbox
	}
	const named = `{container="",id="/kubepods/pod1/s1",image="registry.local/pause:1",name="s1",namespace="default",pod="web"} `

	It("is exposed as cAdvisor does it, without its pressure, and the pod is not hidden by it", func() {
		t, sandbox := tree()
		m := t.meter()
		text := cadvisorText(m)
		expectUnique(text)
		Expect(text).To(ContainSubstring("\ncontainer_memory_rss" + named))
		Expect(text).To(ContainSubstring("\ncontainer_processes" + named))
		Expect(text).To(ContainSubstring("\ncontainer_memory_rss{container=\"\",id=\"/kubepods/pod1\","))
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "container_pressure_") {
				Expect(line).NotTo(ContainSubstring("s1"))
			}
		}
		Expect(figure(m, sandbox.Cgroup, metrics.Processes, time.Hour)).To(Equal(uint64(2)))
		Expect(resourceText(m)).NotTo(ContainSubstring("s1"))
		expectUnique(resourceText(m))
	})

	It("is left out of lean series, which are those without it", func() {
		t, _ := tree()
		cfg := t.config()
		cfg.Labels, cfg.Timestamps = metrics.Lean, true
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		text := cadvisorText(m)
		golden, err := os.ReadFile("testdata/cadvisor-lean.golden")
		Expect(err).NotTo(HaveOccurred())
		Expect(text).To(Equal(string(golden)))
	})

	It("adds its kills to those of the pod once", func() {
		t, sandbox := tree()
		m := t.meter()
		Expect(figure(m, sandbox.Cgroup, metrics.OOMKills, 0)).To(Equal(uint64(1)))
		of := figure(m, podTarget.Cgroup, metrics.OOMKills, time.Hour)
		t.to.set(podTarget)
		Expect(figure(t.meter(), podTarget.Cgroup, metrics.OOMKills, 0)).To(Equal(of)) // v2's has those below
	})
})
