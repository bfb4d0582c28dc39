package rows_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func init() { rows = append(rows, ceilings) }

const (
	// podPIDs is how many processes each pod may have.
	podPIDs   = 1000
	hugePages = "hugepages-2Mi"
	pageSize  = 2 << 20
)

// hugePagesHere are what the kernel has set aside.
func hugePagesHere() resource.Quantity {
	data, _ := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
	count, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64) // 0 where there are none
	return *resource.NewQuantity(count*pageSize, resource.BinarySI)
}

// hugePageSizes are those of the kernel, in bytes.
func hugePageSizes() (sizes []int64) {
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, dir := range dirs {
		var kib int64
		if _, err := fmt.Sscanf(filepath.Base(dir), "hugepages-%dkB", &kib); err == nil {
			sizes = append(sizes, kib<<10)
		}
	}
	return sizes
}

// limit reads a file of a pod's cgroup, by its controller and names in v1 and v2.
func (n *node) limit(pod *corev1.Pod, controller, v1, v2 string) string {
	class := map[corev1.PodQOSClass]string{corev1.PodQOSBestEffort: "besteffort/", corev1.PodQOSBurstable: "burstable/"}[pod.Status.QOSClass]
	below := n.cgroup + "/pods/" + class + "pod" + string(pod.UID) + "/"
	for _, file := range []string{"/sys/fs/cgroup/" + controller + below + v1, "/sys/fs/cgroup" + below + v2} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return "no such file"
}

func ceilings(n *node) {
	It("has as many processes as the node lets a pod have", func() {
		n.apply("bounded", "containers: ["+n.does("app", "forever")+"]")
		Expect(n.limit(n.untilReady("bounded"), "pids", "pids.max", "pids.max")).To(Equal(strconv.Itoa(podPIDs)))
	})

	It("has limits as a whole, which its containers share", func() {
		n.apply("whole", "resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 300m, memory: 96Mi}}\n  containers:\n  - "+
			n.does("app", "forever")+"\n  - "+n.does("other", "forever", "resources: {limits: {memory: 40Mi}}"))
		pod := n.untilReady("whole")
		Expect(pod.Status.QOSClass).To(Equal(corev1.PodQOSBurstable))
		Expect(n.limit(pod, "memory", "memory.limit_in_bytes", "memory.max")).To(Equal(fmt.Sprint(96 << 20)))
		Expect(n.limit(pod, "cpu", "cpu.cfs_quota_us", "cpu.max")).To(HavePrefix("30000"))
	})

	It("cannot write more into memory than its volume may hold there", func() {
		text := strings.Repeat("x", 100<<10)
		got := n.prints("memory", "run append /v/f "+text+" ; run append /v/f "+text, "\n  volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 128Ki}}]",
			"volumeMounts: [{name: v, mountPath: /v}]")
		Expect(got).To(MatchRegexp(`(?s)exit 0\n.*exit 1\n`))
	})

	It("has no huge pages that it does not ask for, where the kernel counts them", func() {
		n.apply("modest", "containers: ["+n.does("app", "forever")+"]")
		pod := n.untilReady("modest")
		var found []string
		for _, pattern := range []string{"/sys/fs/cgroup/hugetlb%s/*/pod%s/*/hugetlb.2MB.limit_in_bytes", "/sys/fs/cgroup%s/*/pod%s/*/hugetlb.2MB.max"} {
			files, _ := filepath.Glob(fmt.Sprintf(pattern, n.cgroup+"/pods", pod.UID))
			for _, file := range files {
				data, err := os.ReadFile(file)
				Expect(err).NotTo(HaveOccurred())
				found = append(found, strings.TrimSpace(string(data)))
			}
		}
		if len(found) > 0 { // its own is among those of its sandbox
			Expect(found).To(ContainElement("0"))
		}
	})

	It("that wants more huge pages than the node has is told so, and fails", func() {
		here := hugePagesHere()
		n.apply("huge", fmt.Sprintf("containers: ["+n.does("app", "forever", "resources: {limits: {memory: 16Mi, cpu: 100m, hugepages-2Mi: %d}}")+"]", here.Value()+pageSize))
		status := n.untilPhase("huge", corev1.PodFailed).Status
		Expect(status.Reason).To(Equal("UnexpectedAdmissionError"), "a pod of a file counts as critical")
		Expect(status.Message).To(ContainSubstring(hugePages))
	})
}
