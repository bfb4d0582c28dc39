package proxyrules_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// policies changes a load balancer with node port 30080, external address
// 198.51.100.7 and ingress 203.0.113.9.
func policies(change func(s *corev1.Service)) *corev1.Service {
	s := service("web", "10.96.0.10", "http:80/TCP:30080")
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.ExternalIPs = []string{"198.51.100.7"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	if change != nil {
		change(s)
	}
	return s
}

func external(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Spec.HealthCheckNodePort = 32000
}

func internal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
}

func TestPolicies(t *testing.T) {
	const cluster = `node:30080/TCP NodePort default/web balance always A
10.96.0.10:80/TCP ClusterIP default/web balance off-cluster A
198.51.100.7:80/TCP ExternalIP default/web balance always A
203.0.113.9:80/TCP LoadBalancer default/web balance always A
`
	for _, c := range []struct {
		name      string
		change    func(s *corev1.Service)
		endpoints string // last byte and flags, see endpoints
		want      string // A, B: the addresses of .1, .2
		problems  string
	}{
		{"cluster", nil, "1", cluster, ""},
		{"external local", external, "1 l,2",
			`node:30080/TCP NodePort default/web balance node local A inside=A inside=B
10.96.0.10:80/TCP ClusterIP default/web balance off-cluster A B
198.51.100.7:80/TCP ExternalIP default/web balance node local A inside=A inside=B
203.0.113.9:80/TCP LoadBalancer default/web balance node local A inside=A inside=B
`, ""},
		{"external local, none here", external, "1", strings.ReplaceAll(strings.ReplaceAll(cluster, "balance always", "drop node local"), "local A", "local inside=A"), ""},
		{"external local, none at all", external, "", `node:30080/TCP NodePort default/web reject node local
10.96.0.10:80/TCP ClusterIP default/web reject off-cluster
198.51.100.7:80/TCP ExternalIP default/web reject node local
203.0.113.9:80/TCP LoadBalancer default/web reject node local
`, ""},
		{"external local, only terminating here, ready elsewhere", external, "1 lrt,2",
			`node:30080/TCP NodePort default/web balance node local A inside=B
10.96.0.10:80/TCP ClusterIP default/web balance off-cluster B
198.51.100.7:80/TCP ExternalIP default/web balance node local A inside=B
203.0.113.9:80/TCP LoadBalancer default/web balance node local A inside=B
`, ""},
		{"external local does not count for a mere cluster IP", func(s *corev1.Service) {
			external(s)
			s.Spec.Type, s.Spec.ExternalIPs, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, nil, 0
		}, "1", "10.96.0.10:80/TCP ClusterIP default/web balance off-cluster A\n", ""},
		{"both local", func(s *corev1.Service) { external(s); internal(s) }, "1 l,2",
			`node:30080/TCP NodePort default/web balance node local A inside=A inside=B
10.96.0.10:80/TCP ClusterIP default/web balance off-cluster local A
198.51.100.7:80/TCP ExternalIP default/web balance node local A inside=A inside=B
203.0.113.9:80/TCP LoadBalancer default/web balance node local A inside=A inside=B
`, ""},
		{"internal local knows no hints", internal, "1 lZ,2 z",
			strings.ReplaceAll(strings.ReplaceAll(cluster, "always A", "always B"), "off-cluster A", "off-cluster local A"), ""},
		{"zone", nil, "1 z,2 Z", cluster, ""},
		{"zone, one of two", nil, "1 zZ,2 Z", cluster, ""},
		{"zone, one without", nil, "1 z,2", strings.ReplaceAll(cluster, " A", " A B"), ""},
		{"zone, none for us", nil, "1 Z,2 Z", strings.ReplaceAll(cluster, " A", " A B"), ""},
		{"zone, but not ready there", nil, "1 zr,2 Z", strings.ReplaceAll(cluster, " A", " B"), ""},
		{"node before zone", nil, "1 nZ,2 Nz", cluster, ""},
		{"node, none for us: zone", nil, "1 Nz,2 NZ", cluster, ""},
		{"hints do not count for the terminating", nil, "1 rtZ,2 rtz", strings.ReplaceAll(cluster, " A", " A B"), ""},
		{"ipMode", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress[0].IPMode = pointer(corev1.LoadBalancerIPModeProxy)
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress,
				corev1.LoadBalancerIngress{IP: "203.0.113.10", IPMode: pointer(corev1.LoadBalancerIPModeVIP)})
		}, "1", strings.ReplaceAll(cluster, "113.9", "113.10"), ""},
		{"affinity", func(s *corev1.Service) { s.Spec.SessionAffinity = "ClientIP" }, "1",
			strings.ReplaceAll(cluster, " A", " affinity=10800 A"), ""},
		{"affinity, for how long", func(s *corev1.Service) {
			s.Spec.SessionAffinity = "ClientIP"
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(60))}}
		}, "1", strings.ReplaceAll(cluster, " A", " affinity=60 A"), ""},
		{"affinity, too long", func(s *corev1.Service) {
			s.Spec.SessionAffinity = "ClientIP"
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(86401))}}
		}, "1", strings.ReplaceAll(cluster, " A", " affinity=10800 A"),
			"service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not in 1 to 86400: 10800 is used"},
		{"affinity, unknown", func(s *corev1.Service) { s.Spec.SessionAffinity = "Cookie" }, "1", cluster,
			`service default/web: spec.sessionAffinity: "Cookie" is not None or ClientIP: every connection is balanced by itself`},
		{"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{" 10.0.0.0/8", "fd00::/8"} }, "1",
			strings.ReplaceAll(cluster, "LoadBalancer default/web balance always A", "LoadBalancer default/web balance always A from=10.0.0.0/8"), ""},
		{"source ranges with the node", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }, "1",
			strings.ReplaceAll(cluster, "LoadBalancer default/web balance always A", "LoadBalancer default/web balance always A from=192.0.2.0/24 from=203.0.113.9/32"), ""},
		{"source ranges, open", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8", "0.0.0.0/0"} }, "1", cluster, ""},
		{"source ranges of another family", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"fd00::/8"} }, "1", cluster,
			"service default/web: spec.loadBalancerSourceRanges: none is of the family of 203.0.113.9, which is open to all"},
		{"source ranges that cannot be read", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"all"} }, "1",
			strings.Join(strings.SplitAfter(cluster, "\n")[:3], ""),
			`service default/web: spec.loadBalancerSourceRanges[0]: "all" is not a network: left out
service default/web: spec.loadBalancerSourceRanges: none can be read: the load balancer addresses are left out, rather than open to all`},
		{"address twice", func(s *corev1.Service) { s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, "198.51.100.7") }, "1", cluster,
			"service default/web: spec.externalIPs[1]: 198.51.100.7 is given twice: the first one counts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ips []string
			for _, e := range strings.Split(c.endpoints, ",") {
				if e != "" {
					ips = append(ips, "10.244.0."+e)
				}
			}
			table, problems := proxyrules.Build([]*corev1.Service{policies(c.change)},
				[]*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, ips...)}, testNode, nil)
			got := strings.NewReplacer("10.244.0.1:8080", "A", "10.244.0.2:8080", "B").Replace(render(table))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.String())
			}
			if diff := cmp.Diff(c.problems, strings.Join(texts, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListsAreShared(t *testing.T) {
	table, _ := proxyrules.Build([]*corev1.Service{policies(external)},
		[]*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, "10.244.0.1 l", "10.244.0.2")}, testNode, nil)
	lists := map[*proxyrules.Endpoint]bool{}
	for f := range table.Fronts() {
		lists[&f.Endpoints[0]] = true
		if f.Inside != nil {
			lists[&f.Inside[0]] = true
		}
	}
	if len(lists) != 2 {
		t.Errorf("%d lists for the fronts of one port, want one for each policy", len(lists))
	}
}

func TestDraining(t *testing.T) {
	dns := service("dns", "10.96.0.10", "dns:53/UDP:30053")
	var previous *proxyrules.Table
	for _, c := range []struct{ endpoints, cluster, local string }{
		{"10.244.0.1 l,10.244.0.2", " 10.244.0.1:53 10.244.0.2:53", " 10.244.0.1:53 inside=10.244.0.1:53 inside=10.244.0.2:53"},
		{"10.244.0.1 lrt,10.244.0.2", " 10.244.0.2:53 draining=10.244.0.1:53", " 10.244.0.1:53 inside=10.244.0.2:53"},
		{"10.244.0.1 lrst,10.244.0.2", " 10.244.0.2:53", " inside=10.244.0.2:53"},
	} {
		for _, local := range []bool{false, true} {
			dns = dns.DeepCopy()
			dns.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
			want := c.cluster
			if local {
				dns.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				want = c.local
			}
			previous, _ = proxyrules.Build([]*corev1.Service{dns},
				[]*discoveryv1.EndpointSlice{endpoints("dns", "dns", "UDP", 53, strings.Split(c.endpoints, ",")...)}, testNode, previous)
			if got, _, _ := strings.Cut(render(previous), "\n"); !strings.HasSuffix(got, want) {
				t.Errorf("%s, local %v: got %s, want %s", c.endpoints, local, got, want)
			}
		}
	}
}

func TestHealthChecks(t *testing.T) {
	other := service("none", "10.96.0.11", "http:80/TCP:30081")
	other.Spec.Type = corev1.ServiceTypeLoadBalancer
	external(other)
	other.Spec.HealthCheckNodePort = 0
	both := endpoints("web", "http", "TCP", 8080, "10.244.0.1 l", "10.244.0.2", "10.244.0.3 lrt", "10.244.0.4 l")
	second := endpoints("web", "more", "TCP", 8081, "10.244.0.4 l")
	table, problems := proxyrules.Build([]*corev1.Service{policies(external), other}, []*discoveryv1.EndpointSlice{both, second}, testNode, nil)
	if diff := cmp.Diff([]proxyrules.HealthCheck{{Service: "default/web", Port: 32000, LocalEndpoints: 2}}, table.HealthChecks); diff != "" {
		t.Error(diff)
	}
	if len(problems) != 1 || problems[0].Field != "spec.healthCheckNodePort" {
		t.Error(problems)
	}
	table, _ = proxyrules.Build([]*corev1.Service{policies(nil)}, []*discoveryv1.EndpointSlice{both}, testNode, table)
	if table.HealthChecks != nil {
		t.Error(table.HealthChecks)
	}
}
