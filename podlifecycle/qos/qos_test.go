package qos_test

import (
	"fmt"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

func list(cpu, memory string) corev1.ResourceList {
	result := corev1.ResourceList{}
	if cpu != "" {
		result[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		result[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return result
}

func container(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func pod(containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Spec: corev1.PodSpec{Containers: containers}}
}

func TestClass(t *testing.T) {
	full := container(list("1", "1Gi"), list("1", "1Gi"))
	podLevel := pod(container(nil, nil))
	podLevel.Spec.Resources = &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}
	withInit := pod(full)
	withInit.Spec.InitContainers = []corev1.Container{container(nil, nil)}
	extended := pod(container(corev1.ResourceList{"example.com/x": resource.MustParse("1")}, nil))
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want corev1.PodQOSClass
	}{
		"nothing":            {pod(container(nil, nil)), corev1.PodQOSBestEffort},
		"zero":               {pod(container(list("0", "0"), nil)), corev1.PodQOSBestEffort},
		"only extended":      {extended, corev1.PodQOSBestEffort},
		"equal":              {pod(full), corev1.PodQOSGuaranteed},
		"limits only":        {pod(container(nil, list("1", "1Gi"))), corev1.PodQOSGuaranteed},
		"same in other unit": {pod(container(list("1000m", "1024Mi"), list("1", "1Gi"))), corev1.PodQOSGuaranteed},
		"memory only":        {pod(container(list("", "1Gi"), list("", "1Gi"))), corev1.PodQOSBurstable},
		"less requested":     {pod(container(list("500m", "1Gi"), list("1", "1Gi"))), corev1.PodQOSBurstable},
		"one of two":         {pod(full, container(nil, nil)), corev1.PodQOSBurstable},
		"init without":       {withInit, corev1.PodQOSBurstable},
		"zero requested":     {pod(container(list("0", "1Gi"), list("1", "1Gi"))), corev1.PodQOSBurstable},
		"pod level":          {podLevel, corev1.PodQOSGuaranteed},
	} {
		t.Run(name, func(t *testing.T) {
			gomega.NewWithT(t).Expect(qos.Class(test.pod)).To(gomega.Equal(test.want))
		})
	}
}

func TestOOMScoreAdj(t *testing.T) {
	priority := func(p *corev1.Pod, value int32) *corev1.Pod {
		p.Spec.Priority = &value
		return p
	}
	for name, test := range map[string]struct {
		pod      *corev1.Pod
		capacity int64
		want     int
	}{
		"guaranteed":       {pod(container(list("1", "1Gi"), list("1", "1Gi"))), 4 << 30, -997},
		"best effort":      {pod(container(nil, nil)), 4 << 30, 1000},
		"a quarter":        {pod(container(list("", "1Gi"), nil)), 4 << 30, 750},
		"nothing of it":    {pod(container(list("1", ""), nil)), 4 << 30, 999},
		"tiny":             {pod(container(list("", "1Mi"), nil)), 4 << 30, 999},
		"everything":       {pod(container(list("", "4Gi"), nil)), 4 << 30, 3},
		"more than all":    {pod(container(list("", "8Ei"), nil)), 4 << 30, 3},
		"unknown capacity": {pod(container(list("", "1Gi"), nil)), 0, 999},
		"critical":         {priority(pod(container(nil, nil)), 2000000000), 4 << 30, -997},
		"below critical":   {priority(pod(container(nil, nil)), 1999999999), 4 << 30, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			node := qos.Node{MemoryCapacity: test.capacity}
			gomega.NewWithT(t).Expect(node.OOMScoreAdj(test.pod, &test.pod.Spec.Containers[0])).To(gomega.Equal(test.want))
		})
	}
}

func TestOOMScoreAdjOfSidecarsAndPodLevel(t *testing.T) {
	g := gomega.NewWithT(t)
	always := corev1.ContainerRestartPolicyAlways
	p := pod(container(list("", "2Gi"), nil))
	sidecar := container(list("", "100Mi"), nil)
	sidecar.RestartPolicy = &always
	p.Spec.InitContainers = []corev1.Container{sidecar, container(list("", "1Gi"), nil)}
	node := qos.Node{MemoryCapacity: 4 << 30}
	g.Expect(node.OOMScoreAdj(p, &p.Spec.InitContainers[0])).To(gomega.Equal(500), "not before the container")
	g.Expect(node.OOMScoreAdj(p, &p.Spec.InitContainers[1])).To(gomega.Equal(750), "a plain init container by its own")

	p = pod(container(list("", "1Gi"), nil), container(nil, nil))
	p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("", "3Gi")}
	g.Expect(node.OOMScoreAdj(p, &p.Spec.Containers[0])).To(gomega.Equal(500), "1Gi and half of the spare 2Gi")
	g.Expect(node.OOMScoreAdj(p, &p.Spec.Containers[1])).To(gomega.Equal(750))
}

func TestContainerResources(t *testing.T) {
	for name, test := range map[string]struct {
		requests, limits corev1.ResourceList
		shares           uint64
		quota            int64 // 0: none
		memory           int64 // 0: none
	}{
		"nothing":            {nil, nil, 2, 0, 0},
		"request":            {list("250m", ""), nil, 256, 0, 0},
		"tiny":               {list("1m", ""), list("1m", ""), 2, 1000, 0},
		"huge":               {list("1000", ""), nil, 262144, 0, 0},
		"limit only":         {nil, list("500m", "64Mi"), 512, 50000, 64 << 20},
		"explicit zero":      {list("0", ""), list("500m", ""), 2, 50000, 0},
		"more than one core": {list("1", ""), list("2500m", ""), 1024, 250000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			c := container(test.requests, test.limits)
			got := qos.Node{}.ContainerResources(pod(c), &c)
			g.Expect(*got.CPU.Shares).To(gomega.Equal(test.shares))
			if test.quota == 0 {
				g.Expect(got.CPU.Quota).To(gomega.BeNil())
			} else {
				g.Expect(*got.CPU.Quota).To(gomega.Equal(test.quota))
				g.Expect(*got.CPU.Period).To(gomega.Equal(uint64(100000)))
			}
			if test.memory == 0 {
				g.Expect(got.Memory).To(gomega.BeNil())
			} else {
				g.Expect(*got.Memory.Limit).To(gomega.Equal(test.memory))
				g.Expect(got.Memory.Swap).To(gomega.BeNil())
			}
			g.Expect(got.Unified).To(gomega.BeEmpty())
		})
	}
	g := gomega.NewWithT(t)
	bare := container(list("100m", ""), list("", "64Mi"))
	within := pod(bare)
	within.Spec.Resources = &corev1.ResourceRequirements{Limits: list("2", "1Gi")}
	inside := qos.Node{}.ContainerResources(within, &bare)
	g.Expect(*inside.CPU.Quota).To(gomega.Equal(int64(200000)), "the pod's, for want of its own")
	g.Expect(*inside.CPU.Shares).To(gomega.Equal(uint64(102)))
	g.Expect(*inside.Memory.Limit).To(gomega.Equal(int64(64<<20)), "its own")

	c := container(nil, corev1.ResourceList{
		corev1.ResourceMemory: resource.MustParse("1Gi"), "hugepages-2Mi": resource.MustParse("64Mi"), "hugepages-1Gi": resource.MustParse("2Gi"),
	})
	got := qos.Node{LimitSwap: true, CgroupV2: true}.ContainerResources(pod(c), &c)
	g.Expect(*got.Memory.Swap).To(gomega.Equal(int64(1 << 30)))
	g.Expect(got.Unified).To(gomega.HaveKeyWithValue("memory.oom.group", "1"))
	g.Expect(fmt.Sprint(got.HugepageLimits)).To(gomega.Equal("[{1GB 2147483648} {2MB 67108864}]"))
}

func TestHugePagesThatNobodyAsksForAreNone(t *testing.T) {
	asks, other := container(nil, list("1", "1Gi")), container(nil, list("1", "1Gi"))
	asks.Resources.Limits["hugepages-2Mi"] = resource.MustParse("64Mi")
	all := []int64{1 << 30, 2 << 20, 64 << 10}
	for name, c := range map[string]struct {
		sizes     []int64
		container corev1.Container
		want      string
	}{
		"asks for one size":   {all, asks, "[{1GB 0} {2MB 67108864} {64KB 0}]"},
		"asks for none":       {all, other, "[{1GB 0} {2MB 0} {64KB 0}]"},
		"of an unknown node":  {nil, asks, "[{2MB 67108864}]"},
		"none and unknown":    {nil, other, "[]"},
		"a size not known of": {[]int64{1 << 30}, asks, "[{1GB 0} {2MB 67108864}]"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			node := qos.Node{HugePageSizes: c.sizes}
			g.Expect(fmt.Sprint(node.ContainerResources(pod(c.container), &c.container).HugepageLimits)).To(gomega.Equal(c.want))
			g.Expect(node.PodResources(pod(asks, other)).HugepageLimits).To(gomega.BeEmpty(), "one of them has its own")
		})
	}
}

func TestPodResources(t *testing.T) {
	g := gomega.NewWithT(t)
	node := qos.Node{PodPidsLimit: 100}

	got := node.PodResources(pod(container(nil, nil)))
	g.Expect(*got.CPU.Shares).To(gomega.Equal(uint64(2)))
	g.Expect(got.Memory).To(gomega.BeNil())
	g.Expect(*got.Pids.Limit).To(gomega.Equal(int64(100)))

	got = node.PodResources(pod(container(list("1", ""), list("2", "1Gi")), container(list("500m", ""), list("1", "1Gi"))))
	g.Expect(*got.CPU.Shares).To(gomega.Equal(uint64(1536)))
	g.Expect(*got.CPU.Quota).To(gomega.Equal(int64(300000)))
	g.Expect(*got.Memory.Limit).To(gomega.Equal(int64(2 << 30)))

	got = node.PodResources(pod(container(nil, list("2", "1Gi")), container(nil, list("", "1Gi"))))
	g.Expect(got.CPU.Quota).To(gomega.BeNil(), "one container has no CPU limit")
	g.Expect(*got.Memory.Limit).To(gomega.Equal(int64(2 << 30)))

	p := pod(container(nil, nil))
	p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("2", "2Gi")}
	got = node.PodResources(p)
	g.Expect(*got.CPU.Quota).To(gomega.Equal(int64(200000)), "the pod's own limit counts")
	g.Expect(*got.Memory.Limit).To(gomega.Equal(int64(2 << 30)))
	g.Expect(qos.Node{}.PodResources(p).Pids).To(gomega.BeNil())
}

func TestSumsTakeThePeakOfInitContainers(t *testing.T) {
	g := gomega.NewWithT(t)
	always := corev1.ContainerRestartPolicyAlways
	p := pod(container(list("1", "1Gi"), nil), container(list("1", "1Gi"), nil))
	sidecar := container(list("500m", "0"), nil)
	sidecar.RestartPolicy = &always
	p.Spec.InitContainers = []corev1.Container{sidecar, container(list("1", "8Gi"), nil)}
	requests := qos.Requests(p)
	g.Expect(requests.Cpu().MilliValue()).To(gomega.Equal(int64(2500)))
	g.Expect(requests.Memory().Value()).To(gomega.Equal(int64(8 << 30)))
	g.Expect(qos.Limits(p)).To(gomega.BeEmpty())
}

func TestCgroups(t *testing.T) {
	g := gomega.NewWithT(t)
	node := qos.Node{}
	g.Expect(node.PodCgroup(pod(container(nil, nil)))).To(gomega.Equal("/kubepods/besteffort/podu1"))
	g.Expect(node.PodCgroup(pod(container(list("1", ""), nil)))).To(gomega.Equal("/kubepods/burstable/podu1"))
	g.Expect(node.PodCgroup(pod(container(nil, list("1", "1Gi"))))).To(gomega.Equal("/kubepods/podu1"))
	node.CgroupRoot = "/nodekit/x"
	g.Expect(node.ClassCgroup(corev1.PodQOSBestEffort)).To(gomega.Equal("/nodekit/x/besteffort"))
}

func TestCritical(t *testing.T) {
	g := gomega.NewWithT(t)
	p := pod(container(nil, nil))
	g.Expect(qos.Critical(p)).To(gomega.BeFalse())
	p.Annotations = map[string]string{"kubernetes.io/config.source": "api"}
	g.Expect(qos.Critical(p)).To(gomega.BeFalse())
	p.Annotations["kubernetes.io/config.source"] = "file"
	g.Expect(qos.Critical(p)).To(gomega.BeTrue())
}

func ExampleNode() {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "1f4c"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app",
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")},
			},
		}}},
	}
	node := qos.Node{MemoryCapacity: 4 << 30}
	app := &pod.Spec.Containers[0]
	fmt.Println(qos.Class(pod), node.PodCgroup(pod))
	fmt.Println("oom_score_adj", node.OOMScoreAdj(pod, app))
	fmt.Println("quota", *node.ContainerResources(pod, app).CPU.Quota)
	// Output:
	// Burstable /kubepods/burstable/pod1f4c
	// oom_score_adj 750
	// quota 50000
}
