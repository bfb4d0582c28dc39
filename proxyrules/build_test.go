package proxyrules_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func TestBuild(t *testing.T) {
	web := func(change func(s *corev1.Service)) *corev1.Service {
		s := service("web", "10.96.0.10", "http:80/TCP")
		if change != nil {
			change(s)
		}
		return s
	}
	two := endpoints("web", "http", "TCP", 8080, "10.244.0.6", "10.244.0.5")
	const balanced = "10.96.0.10:80/TCP ClusterIP default/web balance off-cluster 10.244.0.5:8080 10.244.0.6:8080\n"
	for _, c := range []struct {
		name     string
		services []*corev1.Service
		slices   []*discoveryv1.EndpointSlice
		want     string
		problems []string
	}{
		{"cluster IP", []*corev1.Service{web(nil)}, []*discoveryv1.EndpointSlice{two}, balanced, nil},
		{"no endpoint", []*corev1.Service{web(nil)}, nil, "10.96.0.10:80/TCP ClusterIP default/web reject off-cluster\n", nil},
		{"protocol defaults to TCP", []*corev1.Service{web(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "" })},
			[]*discoveryv1.EndpointSlice{two}, balanced, nil},
		{"node port", []*corev1.Service{service("web", "10.96.0.10", "http:80/TCP:30080")}, []*discoveryv1.EndpointSlice{two},
			"node:30080/TCP NodePort default/web balance always 10.244.0.5:8080 10.244.0.6:8080\n" + balanced, nil},
		{"several ports", []*corev1.Service{service("web", "10.96.0.10", "http:80/TCP", "dns:80/UDP")},
			[]*discoveryv1.EndpointSlice{two, endpoints("web", "dns", "UDP", 53, "10.244.0.5")},
			balanced + "10.96.0.10:80/UDP ClusterIP default/web balance off-cluster 10.244.0.5:53\n", nil},
		{"dual stack", []*corev1.Service{web(func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.10", "fd00:96::1"} })},
			[]*discoveryv1.EndpointSlice{two, endpoints("web", "http", "TCP", 8080, "fd00::5")},
			balanced + "[fd00:96::1]:80/TCP ClusterIP default/web balance off-cluster [fd00::5]:8080\n", nil},
		{"external IP and load balancer", []*corev1.Service{web(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"198.51.100.1"}
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}, {IP: "203.0.113.2", IPMode: pointer(corev1.LoadBalancerIPModeProxy)}, {Hostname: "x"}}
		})}, []*discoveryv1.EndpointSlice{two},
			balanced + "198.51.100.1:80/TCP ExternalIP default/web balance always 10.244.0.5:8080 10.244.0.6:8080\n" +
				"203.0.113.1:80/TCP LoadBalancer default/web balance always 10.244.0.5:8080 10.244.0.6:8080\n", nil},
		{"headless, external name, other proxy, nil", []*corev1.Service{
			web(func(s *corev1.Service) { s.Spec.ClusterIP = "None" }),
			service("a", "10.96.0.1", "x:1/TCP"), nil,
		}, []*discoveryv1.EndpointSlice{two, nil}, "10.96.0.1:1/TCP ClusterIP default/a reject off-cluster\n", nil},
		{"other proxy", []*corev1.Service{
			web(func(s *corev1.Service) { s.Labels = map[string]string{proxyrules.LabelServiceProxyName: "x"} }),
			{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "x"}},
		}, []*discoveryv1.EndpointSlice{two}, "", nil},
		{"ready before terminating", []*corev1.Service{web(nil)},
			[]*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, "10.244.0.5 rt", "10.244.0.6", "10.244.0.7 r")},
			"10.96.0.10:80/TCP ClusterIP default/web balance off-cluster 10.244.0.6:8080\n", nil},
		{"terminating rather than nothing", []*corev1.Service{web(nil)},
			[]*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, "10.244.0.5 rt", "10.244.0.6 rst", "10.244.0.7 r")},
			"10.96.0.10:80/TCP ClusterIP default/web balance off-cluster 10.244.0.5:8080\n", nil},
		{"internal policy local", []*corev1.Service{web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
		})}, []*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, "10.244.0.5 l", "10.244.0.6")},
			"10.96.0.10:80/TCP ClusterIP default/web balance off-cluster local 10.244.0.5:8080\n", nil},
		{"internal policy local, none here", []*corev1.Service{web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
		})}, []*discoveryv1.EndpointSlice{two}, "10.96.0.10:80/TCP ClusterIP default/web drop off-cluster local\n", nil},
		{"endpoint twice", []*corev1.Service{web(nil)}, []*discoveryv1.EndpointSlice{two, endpoints("web", "http", "TCP", 8080, "10.244.0.5 r", "10.244.0.6")}, balanced, nil},
		{"clash", []*corev1.Service{web(nil), service("api", "10.96.0.10", "x:80/TCP")}, []*discoveryv1.EndpointSlice{two},
			"10.96.0.10:80/TCP ClusterIP default/api reject off-cluster\n",
			[]string{"service default/web: spec: 10.96.0.10:80/TCP is taken by service default/api"}},
		{"given twice", []*corev1.Service{web(nil), web(nil)}, []*discoveryv1.EndpointSlice{two}, balanced,
			[]string{"service default/web: metadata.name: given twice, the first one counts"}},
		{"bad fields", []*corev1.Service{
			service("a", "", "x:1/TCP"), service("b", "300.1.1.1", "x:1/TCP"), service("c", "127.0.0.1", "x:1/TCP"),
			service("d", "10.96.0.4", "x:0/TCP", "y:1/ICMP", "z:70000/TCP"), service("e", "10.96.0.5", "x:1/TCP:70000"),
		}, nil, "10.96.0.5:1/TCP ClusterIP default/e reject off-cluster\n", []string{
			`service default/a: spec.clusterIP: empty: no address was allocated`,
			`service default/b: spec.clusterIP: "300.1.1.1" is not an IP address`,
			`service default/c: spec.clusterIP: 127.0.0.1 cannot be used: unspecified, loopback, link-local or multicast`,
			`service default/d: spec.ports[0].port: 0 is not in 1 to 65535`,
			`service default/d: spec.ports[1].protocol: "ICMP" is not TCP, UDP or SCTP`,
			`service default/d: spec.ports[2].port: 70000 is not in 1 to 65535`,
			`service default/e: spec.ports[0].nodePort: 70000 is not in 1 to 65535`,
		}},
		{"bad endpoints", []*corev1.Service{web(nil)}, []*discoveryv1.EndpointSlice{
			endpoints("web", "http", "TCP", 8080, "10.244.0.5", "bad", "0.0.0.0", "fe80::1%eth0"), endpoints("web", "http", "TCP", 0, "10.244.0.9")},
			"10.96.0.10:80/TCP ClusterIP default/web reject off-cluster\n", []string{
				`service default/web: EndpointSlice web-http endpoints[0].addresses[0]: 10.244.0.5 is not of address type IPv6`,
				`service default/web: EndpointSlice web-http endpoints[1].addresses[0]: "bad" is not an IP address`,
				`service default/web: EndpointSlice web-http endpoints[2].addresses[0]: 0.0.0.0 cannot be used: unspecified, loopback, link-local or multicast`,
				`service default/web: EndpointSlice web-http endpoints[3].addresses[0]: "fe80::1%eth0" is not an IP address`,
				`service default/web: EndpointSlice web-http ports[0].port: 0 is not in 1 to 65535`,
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, problems := proxyrules.Build(c.services, c.slices, testNode, nil)
			if diff := cmp.Diff(c.want, render(table)); diff != "" {
				t.Error(diff)
			}
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.String())
			}
			if diff := cmp.Diff(c.problems, texts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBuildKeepsSlots(t *testing.T) {
	web := service("web", "10.96.0.10", "http:80/TCP")
	var previous *proxyrules.Table
	for _, c := range []struct{ have, want string }{
		{"1 2 3 4", "1 2 3 4"},
		{"1 3 4 5", "1 5 3 4"},
		{"0 1 3 4 5", "1 5 3 4 0"},
		{"3 4 5", "4 5 3"},
		{"4", "4"},
		{"", ""},
		{"2 1", "1 2"},
	} {
		var have, got []string
		for _, n := range strings.Fields(c.have) {
			have = append(have, "10.244.0."+n)
		}
		previous, _ = proxyrules.Build([]*corev1.Service{web},
			[]*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 80, append(have, "10.244.0.99 r")...)}, testNode, previous)
		for _, e := range previous.At(0).Endpoints {
			a := e.Addr.Addr().As4()
			got = append(got, fmt.Sprint(a[3]))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.have, got, c.want)
		}
	}
}

// apply is what a dialect does with changes.
func apply(state map[string]string, changes proxyrules.Changes) error {
	for i := range changes.Fronts {
		c := &changes.Fronts[i]
		key := c.Key().String()
		describe := func(f *proxyrules.Front) string {
			return fmt.Sprintf("%s %s %s %d %d %v %d %v %v", f.Kind, f.Action, f.Masquerade, len(f.Endpoints), len(f.Inside),
				f.Local, f.Affinity, f.Sources, f.Draining)
		}
		if c.Old != nil {
			if state[key] != describe(c.Old) {
				return fmt.Errorf("%s is %q, to be removed as %q", key, state[key], describe(c.Old))
			}
			delete(state, key)
		}
		if c.New != nil {
			if have, ok := state[key]; ok {
				return fmt.Errorf("%s is there as %q", key, have)
			}
			state[key] = describe(c.New)
		}
		slots := slices.Clone(c.Slots)
		for _, slot := range c.Inside {
			slot.Index += proxyrules.MaxEndpoints
			slots = append(slots, slot)
		}
		for _, slot := range slots {
			key := fmt.Sprintf("%s#%d", key, slot.Index)
			if slot.Old.IsValid() {
				if state[key] != slot.Old.String() {
					return fmt.Errorf("%s is %q, to be removed as %s", key, state[key], slot.Old)
				}
				delete(state, key)
			}
			if slot.New.IsValid() {
				state[key] = slot.New.String()
			}
		}
	}
	return nil
}

func TestDiffAppliedIsTheNewTable(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		state := make(map[string]string)
		var old *proxyrules.Table
		for step := range 6 {
			services, slices := random(r)
			table, _ := proxyrules.Build(services, slices, testNode, old)
			changes := proxyrules.Diff(old, table)
			// In any order: no change needs another one to be done before.
			r.Shuffle(len(changes.Fronts), func(a, b int) {
				changes.Fronts[a], changes.Fronts[b] = changes.Fronts[b], changes.Fronts[a]
			})
			if err := apply(state, changes); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			whole := make(map[string]string)
			if err := apply(whole, proxyrules.Diff(nil, table)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(whole, state); diff != "" {
				t.Fatalf("seed %d step %d: %s", seed, step, diff)
			}
			if again := proxyrules.Diff(table, table); !again.Empty() || again.Len() != 0 {
				t.Fatalf("a table differs from itself: %+v", again)
			}
			fresh, _ := proxyrules.Build(services, slices, testNode, nil)
			if diff := cmp.Diff(frontNames(fresh), frontNames(table)); diff != "" {
				t.Fatalf("seed %d step %d: built upon another table, fronts differ: %s", seed, step, diff)
			}
			old = table
		}
		if err := apply(state, proxyrules.Diff(old, nil)); err != nil || len(state) != 0 {
			t.Fatalf("left: %v %v", state, err)
		}
	}
}

// frontNames lists fronts with their endpoints in order of address.
func frontNames(t *proxyrules.Table) []string {
	var out []string
	for f := range t.Fronts() {
		sorted := slices.Clone(f.Endpoints)
		slices.SortFunc(sorted, func(a, b proxyrules.Endpoint) int { return a.Addr.Compare(b.Addr) })
		inside := slices.Clone(f.Inside)
		slices.SortFunc(inside, func(a, b proxyrules.Endpoint) int { return a.Addr.Compare(b.Addr) })
		out = append(out, fmt.Sprintf("%s %s %s %s %v %v %d %v %v %v", f.FrontKey, f.Action, f.Masquerade, f.Service, sorted, inside,
			f.Affinity, f.Local, f.Sources, f.Draining))
	}
	return out
}

func TestBuildSharesWhatStays(t *testing.T) {
	web, api := service("web", "10.96.0.10", "http:80/TCP"), service("api", "10.96.0.11", "http:80/TCP")
	one, two := endpoints("web", "http", "TCP", 80, "10.244.0.1"), endpoints("api", "http", "TCP", 80, "10.244.0.2")
	first, _ := proxyrules.Build([]*corev1.Service{web, api}, []*discoveryv1.EndpointSlice{one, two}, testNode, nil)
	more := endpoints("api", "http", "TCP", 80, "10.244.0.2", "10.244.0.3")
	second, _ := proxyrules.Build([]*corev1.Service{web.DeepCopy(), api}, []*discoveryv1.EndpointSlice{one.DeepCopy(), more}, testNode, first)
	if first.At(0) != second.At(0) || first.At(1) == second.At(1) {
		t.Error("fronts that are equal are the same, others are not")
	}
	changes := proxyrules.Diff(first, second)
	want := []proxyrules.SlotChange{{Index: 1, New: netip.MustParseAddrPort("10.244.0.3:80")}}
	if diff := cmp.Diff(want, changes.Fronts[0].Slots, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || len(changes.Fronts) != 1 {
		t.Error(diff, changes)
	}
}

func TestTableAsJSON(t *testing.T) {
	services, endpoints := many(300)
	services = append(services, service("local", "10.97.0.1", "http:80/TCP:30080"))
	services[300].Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	table, _ := proxyrules.Build(services, endpoints, testNode, nil)
	text, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	var back proxyrules.Table
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if changes := proxyrules.Diff(table, &back); back.Len() == 0 || !changes.Empty() {
		t.Errorf("%d fronts came back of %d: %+v", back.Len(), table.Len(), changes)
	}
	again, err := json.Marshal(&back)
	if err != nil || string(again) != string(text) {
		t.Errorf("written again it differs: %v", err)
	}
	none, err := json.Marshal(proxyrules.NewTable(proxyrules.Node{}, nil))
	if err != nil || string(none) != `{"node":{},"fronts":[]}` {
		t.Errorf("%s %v", none, err)
	}
	if err := json.Unmarshal([]byte(`{"fronts":[null]}`), &back); err == nil || !strings.Contains(err.Error(), "fronts[0]") {
		t.Errorf("null: %v", err)
	}
}
