package iptables_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// golden is a table with a front of every sort.
func golden(v6 bool) *proxyrules.Table {
	vip, pods, source := "10.96.0.", "10.244.0.", "192.0.2.0/24"
	node := proxyrules.Node{Name: "node", MasqueradeEgress: true, LocalInterface: "cali*"}
	if v6 {
		vip, pods, source = "fd00:96::", "fd00:244::", "2001:db8::/32"
		node.LocalInterface, node.Addresses = "", []netip.Addr{netip.MustParseAddr("2001:db8::1")}
		node.PodCIDRs, node.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00:244::/64")}, []netip.Prefix{netip.MustParsePrefix("fd00:96::/108")}
	} else {
		node.Addresses, node.PodCIDRs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
		node.NoMasquerade = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}
	}
	var list []proxyrules.Endpoint
	for _, last := range []string{"5", "6", "7"} {
		list = append(list, proxyrules.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr(pods+last), 8080)})
	}
	front := func(addr string, kind proxyrules.Kind, change func(f *proxyrules.Front)) *proxyrules.Front {
		f := &proxyrules.Front{FrontKey: proxyrules.FrontKey{Addr: netip.MustParseAddr(addr), Protocol: "TCP", Port: 80}, Kind: kind,
			Service: "default/web", PortName: "http", Action: proxyrules.Balance, Masquerade: proxyrules.MasqueradeAlways, Endpoints: list[:2]}
		change(f)
		return f
	}
	unspecified := "0.0.0.0"
	if v6 {
		unspecified = "::"
	}
	return proxyrules.NewTable(node, []*proxyrules.Front{
		front(vip+"10", proxyrules.ClusterIP, func(f *proxyrules.Front) { f.Masquerade = proxyrules.MasqueradeOffCluster }),
		front(vip+"11", proxyrules.ClusterIP, func(f *proxyrules.Front) {
			f.Masquerade, f.Affinity, f.Protocol = proxyrules.MasqueradeOffCluster, 10800, "SCTP"
		}),
		front(vip+"12", proxyrules.ClusterIP, func(f *proxyrules.Front) {
			f.Action, f.Endpoints, f.Service = proxyrules.Reject, nil, "default/none\n-X"
		}),
		front(vip+"20", proxyrules.LoadBalancer, func(f *proxyrules.Front) { f.Sources = []netip.Prefix{netip.MustParsePrefix(source)} }),
		front(vip+"21", proxyrules.ExternalIP, func(f *proxyrules.Front) {
			f.Local, f.Masquerade, f.Endpoints, f.Inside = true, proxyrules.MasqueradeNode, list[:1], list
		}),
		front(unspecified, proxyrules.NodePort, func(f *proxyrules.Front) {
			f.Local, f.Masquerade, f.Action, f.Endpoints, f.Inside, f.Port = true, proxyrules.MasqueradeNode, proxyrules.Drop, nil, list[2:], 30080
		}),
	})
}

func TestRenderGolden(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		name, tool := "ipv4", "iptables-restore"
		if v6 {
			name, tool = "ipv6", "ip6tables-restore"
		}
		t.Run(name, func(t *testing.T) {
			text, err := iptables.Render(iptables.Config{Prefix: "NODEKIT"}, golden(v6), v6)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if text != string(want) {
				t.Errorf("not as in %s:\n%s", path, text)
			}
			accepts(t, tool, text)
		})
	}
}

// Whose EndpointSlices there are decides nothing: a headless Service has no rules,
// whether its slices are labelled so or not.
func TestHeadlessServiceHasNoRules(t *testing.T) {
	number, protocol := int32(8080), corev1.ProtocolTCP
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80, Protocol: protocol}}}}
	for _, labels := range []map[string]string{{}, {corev1.IsHeadlessService: ""}} {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-1", Labels: labels},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &number, Protocol: &protocol}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}}}}
		labels[discoveryv1.LabelServiceName] = "db"
		render := func(services ...*corev1.Service) string {
			table, problems := proxyrules.Build(services, []*discoveryv1.EndpointSlice{slice}, proxyrules.Node{}, nil)
			if len(problems) > 0 {
				t.Error(problems)
			}
			text, err := iptables.Render(iptables.Config{Prefix: "NODEKIT"}, table, false)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		if text := render(service); text != render() {
			t.Errorf("with labels %v:\n%s", labels, text)
		}
		other := service.DeepCopy()
		other.Spec.ClusterIP = "10.96.0.10"
		if _, headless := labels[corev1.IsHeadlessService]; !headless && !strings.Contains(render(other), "10.244.0.5") {
			t.Error("the same Service with an address has no endpoint")
		}
	}
}

func TestConfig(t *testing.T) {
	_, err := iptables.Open(iptables.Config{Prefix: "no", Variant: "other", MasqueradeMark: 3, NetNS: -1})
	for _, want := range []string{"Prefix", "Variant", "MasqueradeMark", "NetNS"} {
		if err == nil || !strings.Contains(err.Error(), "field "+want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
	kerneltest.Require(t, kerneltest.Root)
	t.Setenv("PATH", t.TempDir())
	if _, err := iptables.Open(iptables.Config{Prefix: "NODEKIT"}); err == nil || !strings.Contains(err.Error(), iptables.ErrNotSupported.Error()) {
		t.Errorf("without tools: %v", err)
	}
}
