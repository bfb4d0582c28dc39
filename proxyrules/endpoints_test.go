package proxyrules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name, ip string, ready bool, change ...func(p *corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name = "default", name
	p.Labels = map[string]string{"app": "web", "extra": name}
	p.Spec.NodeName = "node1"
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}}}}
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = ip
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	for _, f := range change {
		f(p)
	}
	return p
}

func renderSlices(slices []*discoveryv1.EndpointSlice) string {
	var b strings.Builder
	for _, s := range slices {
		fmt.Fprintf(&b, "%s/%s %s", s.Namespace, s.Name, s.AddressType)
		for _, p := range s.Ports {
			fmt.Fprintf(&b, " %s:%d/%s", *p.Name, *p.Port, *p.Protocol)
		}
		b.WriteString("\n")
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "  %s %s", e.Addresses[0], e.TargetRef.Name)
			if *e.Conditions.Ready {
				b.WriteString(" ready")
			}
			if *e.Conditions.Serving {
				b.WriteString(" serving")
			}
			if *e.Conditions.Terminating {
				b.WriteString(" terminating")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func TestEndpoints(t *testing.T) {
	gone := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	named := func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }
	for _, c := range []struct {
		name   string
		change func(s *corev1.Service)
		pods   []*corev1.Pod
		want   string
	}{
		{"readiness and deletion", nil, []*corev1.Pod{
			pod("b", "10.244.0.3", false), pod("a", "10.244.0.2", true),
			pod("c", "10.244.0.4", true, gone), pod("d", "10.244.0.5", false, gone), nil,
		}, "default/web-ipv4-1 IPv4 http:80/TCP\n  10.244.0.2 a ready serving\n  10.244.0.3 b\n  10.244.0.4 c serving terminating\n  10.244.0.5 d terminating\n"},
		{"not ready is published", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
			[]*corev1.Pod{pod("a", "10.244.0.2", false)}, "default/web-ipv4-1 IPv4 http:80/TCP\n  10.244.0.2 a ready\n"},
		{"others", nil, []*corev1.Pod{
			pod("a", "", true), pod("b", "10.244.0.2", true, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
			pod("c", "10.244.0.3", true, func(p *corev1.Pod) { p.Namespace = "other" }),
			pod("d", "10.244.0.4", true, func(p *corev1.Pod) { p.Labels = nil }),
			pod("e", "10.244.0.5", true, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		}, ""},
		{"target ports by number", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(81) },
			[]*corev1.Pod{pod("a", "10.244.0.2", true)}, "default/web-ipv4-1 IPv4 http:81/TCP\n  10.244.0.2 a ready serving\n"},
		{"target ports by name, a slice for each number", named, []*corev1.Pod{
			pod("a", "10.244.0.2", true), pod("b", "10.244.0.3", true),
			pod("c", "10.244.0.4", true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 }),
			pod("d", "10.244.0.5", true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = "UDP" }),
			pod("e", "10.244.0.6", true, func(p *corev1.Pod) {
				p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, nil
				p.Spec.InitContainers[0].RestartPolicy = pointer(corev1.ContainerRestartPolicyAlways)
			}),
		}, "default/web-ipv4-1 IPv4\n  10.244.0.5 d ready serving\n" +
			"default/web-ipv4-2 IPv4 http:8080/TCP\n  10.244.0.2 a ready serving\n  10.244.0.3 b ready serving\n  10.244.0.6 e ready serving\n" +
			"default/web-ipv4-3 IPv4 http:9090/TCP\n  10.244.0.4 c ready serving\n"},
		{"host network", nil, []*corev1.Pod{pod("a", "192.0.2.1", true, func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
			"default/web-ipv4-1 IPv4 http:80/TCP\n  192.0.2.1 a ready serving\n"},
		{"dual stack", func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv6", "IPv4"} },
			[]*corev1.Pod{pod("a", "10.244.0.2", true, func(p *corev1.Pod) {
				p.Status.PodIPs = []corev1.PodIP{{IP: "10.244.0.2"}, {IP: "fd00::2"}}
			}), pod("b", "10.244.0.3", true)},
			"default/web-ipv6-1 IPv6 http:80/TCP\n  fd00::2 a ready serving\n" +
				"default/web-ipv4-1 IPv4 http:80/TCP\n  10.244.0.2 a ready serving\n  10.244.0.3 b ready serving\n"},
		{"no selector", func(s *corev1.Service) { s.Spec.Selector = nil }, []*corev1.Pod{pod("a", "10.244.0.2", true)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := service("web", "10.96.0.10", "http:80/TCP")
			if c.change != nil {
				c.change(s)
			}
			slices := proxyrules.Endpoints(s, c.pods)
			if diff := cmp.Diff(c.want, renderSlices(slices)); diff != "" {
				t.Error(diff)
			}
			for _, slice := range slices {
				if slice.Labels[discoveryv1.LabelServiceName] != "web" {
					t.Errorf("labels %v", slice.Labels)
				}
			}
		})
	}
}

func TestEndpointsFeedBuild(t *testing.T) {
	s := service("web", "10.96.0.10", "http:80/TCP", "dns:53/UDP")
	s.Spec.Ports[0].TargetPort = intstr.FromString("http")
	s.Spec.Ports[1].TargetPort = intstr.FromString("dns")
	slices := proxyrules.Endpoints(s, []*corev1.Pod{pod("a", "10.244.0.2", true), pod("b", "10.244.0.3", false)})
	table, problems := proxyrules.Build([]*corev1.Service{s}, slices, testNode, nil)
	want := "10.96.0.10:80/TCP ClusterIP default/web balance off-cluster 10.244.0.2:8080\n" +
		"10.96.0.10:53/UDP ClusterIP default/web balance off-cluster 10.244.0.2:53\n"
	if diff := cmp.Diff(want, render(table)); diff != "" || problems != nil {
		t.Error(diff, problems)
	}
	if got := table.At(0).Endpoints[0].Target; got != "default/a" {
		t.Errorf("target %q", got)
	}
}
