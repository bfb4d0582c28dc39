package admission_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/admission"
	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// list reads "cpu=1 memory=2Gi".
func list(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, word := range strings.Fields(text) {
		name, value, _ := strings.Cut(word, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func newPod(name, requests string, edits ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: list(requests)}}}}}
	for _, edit := range edits {
		edit(pod)
	}
	return pod
}

func critical(p *corev1.Pod) { priority(2_000_000_000)(p) }

func priority(value int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &value }
}

func guaranteed(p *corev1.Pod) {
	p.Spec.Containers[0].Resources.Limits = p.Spec.Containers[0].Resources.Requests
}

func node(t testing.TB, config admission.Config) *admission.Node {
	t.Helper()
	n, err := admission.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConfig(t *testing.T) {
	g := gomega.NewWithT(t)
	_, err := admission.New(admission.Config{AllowedUnsafeSysctls: []string{"vm.swappiness", "net.*.x"}, Allocatable: list("cpu=-1")})
	g.Expect(err).To(gomega.MatchError(gomega.And(gomega.ContainSubstring("vm.swappiness"), gomega.ContainSubstring("net.*.x"), gomega.ContainSubstring("Allocatable[cpu]"))))
}

func TestResources(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	full := "cpu=2 memory=2Gi ephemeral-storage=10Gi hugepages-2Mi=4Mi pods=3"
	held := newPod("held", "cpu=500m memory=1Gi ephemeral-storage=1Gi hugepages-2Mi=2Mi")
	for name, test := range map[string]struct {
		allocatable     string
		pod             *corev1.Pod
		more            int // pods beside held, that ask for nothing
		reason, message string
	}{
		"nothing asked for":   {full, newPod("p", ""), 0, "", ""},
		"exactly what's left": {full, newPod("p", "cpu=1500m memory=1Gi ephemeral-storage=9Gi hugepages-2Mi=2Mi"), 0, "", ""},
		"cpu": {full, newPod("p", "cpu=1501m"), 0, "OutOfcpu",
			"Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"},
		"memory": {full, newPod("p", "memory=1025Mi"), 0, "OutOfmemory",
			"Node didn't have enough resource: memory, requested: 1074790400, used: 1073741824, capacity: 2147483648"},
		"storage": {full, newPod("p", "ephemeral-storage=10Gi"), 0, "OutOfephemeral-storage",
			"Node didn't have enough resource: ephemeral-storage, requested: 10737418240, used: 1073741824, capacity: 10737418240"},
		"huge pages": {full, newPod("p", "hugepages-2Mi=4Mi"), 0, "OutOfhugepages-2Mi",
			"Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 2097152, capacity: 4194304"},
		"pods": {full, newPod("p", ""), 2, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		"the first counts": {full, newPod("p", "memory=9Gi cpu=9"), 0, "OutOfcpu",
			"Node didn't have enough resource: cpu, requested: 9000, used: 500, capacity: 2000"},
		"no limit":    {"", newPod("p", "cpu=1000"), 5, "", ""},
		"not limited": {"cpu=2", newPod("p", "memory=1Ti"), 5, "", ""},
		"peak of an init container and its sidecar": {full, newPod("p", "cpu=100m", func(p *corev1.Pod) {
			side, first := corev1.Container{RestartPolicy: &always}, corev1.Container{}
			side.Resources.Requests, first.Resources.Requests = list("cpu=600m"), list("cpu=1")
			p.Spec.InitContainers = []corev1.Container{side, first}
		}), 0, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"},
		"overhead": {full, newPod("p", "cpu=1", func(p *corev1.Pod) { p.Spec.Overhead = list("cpu=501m") }), 0, "OutOfcpu",
			"Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"},
		"the pod's own": {full, newPod("p", "cpu=1", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=3")}
		}), 0, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 3000, used: 500, capacity: 2000"},
		"limits are no requests": {full, newPod("p", "", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: list("cpu=9"), Requests: list("cpu=0")}
		}), 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			load := node(t, admission.Config{Allocatable: list(test.allocatable)}).Load(held)
			for i := range test.more {
				load.Add(newPod(fmt.Sprint(i), ""))
			}
			got := load.Admit(test.pod)
			g.Expect(got.Reason).To(gomega.Equal(test.reason))
			g.Expect(got.Message).To(gomega.Equal(test.message))
		})
	}
}

func TestRemove(t *testing.T) {
	g := gomega.NewWithT(t)
	held := newPod("held", "cpu=2")
	load := node(t, admission.Config{Allocatable: list("cpu=2 pods=1")}).Load(held)
	p := newPod("p", "cpu=2")
	g.Expect(load.Admit(p).Reason).To(gomega.Equal("OutOfpods"))
	load.Remove(newPod("other", "cpu=2"))
	g.Expect(load.Admit(p).Reason).To(gomega.Equal("OutOfpods"))
	load.Remove(held)
	g.Expect(load.Admit(p)).To(gomega.Equal(admission.Result{}))
}

func TestNode(t *testing.T) {
	wants := func(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
		}
	}
	term := func(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
	}
	selector := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
	}
	sysctl := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{}
			for _, name := range names {
				p.Spec.SecurityContext.Sysctls = append(p.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: name})
			}
		}
	}
	profile := func(kind corev1.AppArmorProfileType) *corev1.AppArmorProfile {
		return &corev1.AppArmorProfile{Type: kind}
	}
	const required = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
	for name, test := range map[string]struct {
		edit          func(*corev1.Pod)
		reason, field string
		message       string
	}{
		"this os":         {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.OSName(runtime.GOOS)} }, "", "", ""},
		"another os":      {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: "plan9"} }, "PodOSNotSupported", "spec.os.name", "OS field"},
		"another label":   {func(p *corev1.Pod) { p.Labels = map[string]string{"kubernetes.io/os": "plan9"} }, "PodOSSelectorNodeLabelDoesNotMatch", "metadata.labels[kubernetes.io/os]", "os"},
		"selector":        {selector("disk", "fast"), "", "", ""},
		"architecture":    {selector("kubernetes.io/arch", runtime.GOARCH), "", "", ""},
		"wrong value":     {selector("disk", "slow"), "NodeAffinity", "spec.nodeSelector", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"no such label":   {selector("gpu", ""), "NodeAffinity", "spec.nodeSelector", "selector"},
		"affinity":        {wants(term("disk", corev1.NodeSelectorOpIn, "slow", "fast")), "", "", ""},
		"one of two":      {wants(term("gpu", corev1.NodeSelectorOpExists), term("cores", corev1.NodeSelectorOpGt, "3")), "", "", ""},
		"none of two":     {wants(term("gpu", corev1.NodeSelectorOpExists), term("cores", corev1.NodeSelectorOpGt, "4")), "NodeAffinity", required, "affinity"},
		"not readable":    {wants(term("cores", corev1.NodeSelectorOpGt, "x")), "NodeAffinity", required, "affinity"},
		"no term":         {wants(), "NodeAffinity", required, "affinity"},
		"safe sysctl":     {sysctl("net.ipv4.tcp_rmem", "net/ipv4/tcp_notsent_lowat"), "", "", ""},
		"allowed":         {sysctl("net.core.somaxconn", "kernel.msgmax"), "", "", ""},
		"unsafe":          {sysctl("net.ipv4.tcp_rmem", "net.ipv6.x"), "SysctlForbidden", "spec.securityContext.sysctls[1].name", `forbidden sysctl: "net.ipv6.x" not allowlisted`},
		"on the host's":   {func(p *corev1.Pod) { sysctl("net.core.somaxconn")(p); p.Spec.HostNetwork = true }, "SysctlForbidden", "spec.securityContext.sysctls[0].name", `"net.core.somaxconn" not allowed with host Net enabled`},
		"on the host's 2": {func(p *corev1.Pod) { sysctl("kernel.msgmax")(p); p.Spec.HostIPC = true }, "SysctlForbidden", "spec.securityContext.sysctls[0].name", `"kernel.msgmax" not allowed with host IPC enabled`},
		"of users":        {sysctl("user.max_user_namespaces"), "SysctlForbidden", "spec.securityContext.sysctls[0].name", `not allowed with host User enabled`},
		"of own users":    {func(p *corev1.Pod) { sysctl("user.max_user_namespaces")(p); no := false; p.Spec.HostUsers = &no }, "", "", ""},
		"AppArmor": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: profile("Localhost")}
		}, "AppArmor", "spec.securityContext.appArmorProfile", "Cannot enforce AppArmor"},
		"AppArmor of one": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AppArmorProfile: profile("RuntimeDefault")}
		}, "AppArmor", "spec.containers[0].securityContext.appArmorProfile", ""},
		"no AppArmor": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AppArmorProfile: profile("Unconfined")}
		}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			n := node(t, admission.Config{Labels: map[string]string{"disk": "fast", "cores": "4"},
				AllowedUnsafeSysctls: []string{"net.core.*", "kernel.msgmax", "user.*"}})
			got := n.Load().Admit(newPod("p", "", test.edit))
			g.Expect(got.Reason).To(gomega.Equal(test.reason))
			g.Expect(got.Field).To(gomega.Equal(test.field))
			g.Expect(got.Message).To(gomega.ContainSubstring(test.message))
			if test.reason == admission.ReasonAppArmor {
				g.Expect(node(t, admission.Config{AppArmor: true}).Load().Admit(newPod("p", "", test.edit)).Reason).To(gomega.BeEmpty())
			}
		})
	}
}

func names(pods []*corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestPreemption(t *testing.T) {
	static := func(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }
	for name, test := range map[string]struct {
		there  []*corev1.Pod
		pod    *corev1.Pod
		want   string
		reason string
	}{
		"not critical": {[]*corev1.Pod{newPod("a", "cpu=2")}, newPod("p", "cpu=1"), "", "OutOfcpu"},
		"fits":         {[]*corev1.Pod{newPod("a", "cpu=1")}, newPod("p", "cpu=1", critical), "", ""},
		"burstable before guaranteed": {[]*corev1.Pod{newPod("a", "cpu=1 memory=1Mi", guaranteed), newPod("b", "cpu=1")},
			newPod("p", "cpu=1", critical), "b", ""},
		"guaranteed if it must be": {[]*corev1.Pod{newPod("a", "cpu=1500m memory=1Mi", guaranteed), newPod("b", "cpu=500m")},
			newPod("p", "cpu=1", critical), "a", ""},
		"fewest":     {[]*corev1.Pod{newPod("a", "cpu=600m"), newPod("b", "cpu=400m"), newPod("c", "cpu=1")}, newPod("p", "cpu=1", critical), "c", ""},
		"smallest":   {[]*corev1.Pod{newPod("a", "cpu=1 memory=512Mi"), newPod("b", "cpu=1 memory=256Mi")}, newPod("p", "cpu=1", critical), "b", ""},
		"two needs":  {[]*corev1.Pod{newPod("a", "cpu=1"), newPod("b", "memory=512Mi"), newPod("c", "cpu=1 memory=512Mi")}, newPod("p", "cpu=1 memory=512Mi", critical), "c", ""},
		"a place":    {[]*corev1.Pod{newPod("a", ""), newPod("b", "cpu=1"), newPod("c", ""), newPod("d", "")}, newPod("p", "", critical), "a", ""},
		"impossible": {[]*corev1.Pod{newPod("a", "cpu=1")}, newPod("p", "cpu=3", critical), "", "UnexpectedAdmissionError"},
		"only critical ones": {[]*corev1.Pod{newPod("a", "cpu=2", critical), newPod("b", "", static)}, newPod("p", "cpu=1", critical), "",
			"UnexpectedAdmissionError"},
		"a less critical one": {[]*corev1.Pod{newPod("a", "cpu=2", critical)}, newPod("p", "cpu=1", priority(2_000_001_000)), "a", ""},
		"static for static":   {[]*corev1.Pod{newPod("a", "cpu=2", static)}, newPod("p", "cpu=1", static), "", "UnexpectedAdmissionError"},
		"static for another":  {[]*corev1.Pod{newPod("a", "cpu=2")}, newPod("p", "cpu=1", static), "a", ""},
		"not for another reason": {[]*corev1.Pod{newPod("a", "cpu=2")}, newPod("p", "cpu=1", critical, func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"gpu": "yes"}
		}), "", "NodeAffinity"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			got := node(t, admission.Config{Allocatable: list("cpu=2 memory=1Gi pods=4")}).Load(test.there...).Admit(test.pod)
			g.Expect(got.Reason).To(gomega.Equal(test.reason), got.Message)
			g.Expect(names(got.Preempt)).To(gomega.Equal(test.want))
		})
	}
	g := gomega.NewWithT(t)
	got := node(t, admission.Config{Allocatable: list("cpu=2")}).Load().Admit(newPod("p", "cpu=3", critical))
	g.Expect(got.Message).To(gomega.Equal("Unexpected error while attempting to recover from admission failure: preemption: " +
		"error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"))
}

// Whatever is there: who is admitted fits, who is preempted may be and
// makes room enough, and who is rejected cannot be helped.
func TestAdmitProperties(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		random := func(name string) *corev1.Pod {
			p := newPod(name, fmt.Sprintf("cpu=%dm memory=%dMi", rng.IntN(8)*250, rng.IntN(8)*128), priority(int32([]int{0, 1000, 2_000_000_000, 2_000_001_000}[rng.IntN(4)])))
			if rng.IntN(3) == 0 {
				guaranteed(p)
			}
			if rng.IntN(4) == 0 {
				p.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
			}
			return p
		}
		n := node(t, admission.Config{Allocatable: list(fmt.Sprintf("cpu=4 memory=2Gi pods=%d", 2+rng.IntN(8)))})
		load := n.Load()
		var there []*corev1.Pod
		for i := range rng.IntN(12) {
			if p := random(fmt.Sprint("there", i)); load.Admit(p).Reason == "" && len(load.Short(p)) == 0 {
				load.Add(p)
				there = append(there, p)
			}
		}
		pod := random("pod")
		r := load.Admit(pod)
		without := func(gone []*corev1.Pod) *admission.Load {
			return n.Load(slices.DeleteFunc(slices.Clone(there), func(p *corev1.Pod) bool { return slices.Contains(gone, p) })...)
		}
		switch {
		case r.Reason == "" && len(r.Preempt) == 0 && len(load.Short(pod)) > 0:
			t.Fatalf("seed %d: admitted, and does not fit: %v", seed, load.Short(pod))
		case r.Reason != "" && len(load.Short(pod)) == 0:
			t.Fatalf("seed %d: %s, and fits", seed, r.Message)
		case len(r.Preempt) > 0 && len(without(r.Preempt).Short(pod)) > 0:
			t.Fatalf("seed %d: %s preempted, and does not fit", seed, names(r.Preempt))
		case r.Reason != "" && qos.Critical(pod):
			all := slices.DeleteFunc(slices.Clone(there), func(p *corev1.Pod) bool {
				return qos.Critical(p) && *p.Spec.Priority >= *pod.Spec.Priority
			})
			if len(without(all).Short(pod)) == 0 {
				t.Fatalf("seed %d: %s, but there are %s", seed, r.Message, names(all))
			}
		}
		for _, victim := range r.Preempt {
			if !qos.Critical(pod) || qos.Critical(victim) && *victim.Spec.Priority >= *pod.Spec.Priority {
				t.Fatalf("seed %d: %s may not be preempted", seed, victim.Name)
			}
		}
	}
}

func ExampleLoad_Admit() {
	node, err := admission.New(admission.Config{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	pod := func(name, cpu string, priority int32) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority,
			Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}}}
	}
	load := node.Load(pod("web", "1500m", 0))
	result := load.Admit(pod("batch", "1", 0))
	fmt.Println(result.Reason, "-", result.Message)
	result = load.Admit(pod("dns", "1", 2_000_000_000))
	fmt.Println("for dns ends", result.Preempt[0].Name)
	// Output:
	// OutOfcpu - Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000
	// for dns ends web
}
