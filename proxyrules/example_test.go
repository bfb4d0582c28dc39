package proxyrules_test

import (
	"fmt"
	"net/netip"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
)

func ExampleTrace() {
	web := &corev1.Service{}
	web.Namespace, web.Name = "default", "web"
	web.Spec = corev1.ServiceSpec{
		ClusterIP: "10.96.0.10",
		Selector:  map[string]string{"app": "web"},
		Ports:     []corev1.ServicePort{{Port: 80}},
	}
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = "default", "web-1"
	pod.Labels = map[string]string{"app": "web"}
	pod.Status.PodIP = "10.244.0.5"
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	node := proxyrules.Node{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}

	slices := proxyrules.Endpoints(web, []*corev1.Pod{pod})
	table, problems := proxyrules.Build([]*corev1.Service{web}, slices, node, nil)
	fmt.Println(len(problems), "problems")
	packet, _ := proxyrules.ParsePacket("192.0.2.7", "10.96.0.10:80", "tcp")
	fmt.Print(proxyrules.Trace(table, packet))
	// Output:
	// 0 problems
	// 192.0.2.7 -> 10.96.0.10:80/TCP: balance (service default/web)
	//   1. masquerade-off-cluster: 192.0.2.7 is in no pod CIDR: gets the node's address on the way to a cluster IP
	//   2. service: 10.96.0.10:80/TCP is ClusterIP of service default/web
	//   3. balance: one of 1 endpoints at random
	//   -> 10.244.0.5:80 (default/web-1) 100%, sees the node's address
}

func ExampleDiff() {
	front := func(endpoints ...string) *proxyrules.Table {
		f := &proxyrules.Front{
			FrontKey: proxyrules.FrontKey{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: "TCP", Port: 80},
			Kind:     proxyrules.ClusterIP, Action: proxyrules.Balance,
		}
		for _, e := range endpoints {
			f.Endpoints = append(f.Endpoints, proxyrules.Endpoint{Addr: netip.MustParseAddrPort(e)})
		}
		return proxyrules.NewTable(proxyrules.Node{}, []*proxyrules.Front{f})
	}
	changes := proxyrules.Diff(front("10.244.0.5:80", "10.244.0.6:80"), front("10.244.0.5:80", "10.244.0.7:80"))
	for _, change := range changes.Fronts {
		for _, slot := range change.Slots {
			fmt.Println(change.Key(), "slot", slot.Index, slot.Old, "->", slot.New)
		}
	}
	// Output:
	// 10.96.0.10:80/TCP slot 1 10.244.0.6:80 -> 10.244.0.7:80
}
