package hostfiles_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/runtimeiface"
)

var node = hostfiles.Node{
	Name: "edge-1", ClusterDNS: []string{"10.96.0.2"}, ClusterDomain: "cluster.local",
	ResolvConf: runtimeiface.DNS{Servers: []string{"192.0.2.1"}, Searches: []string{"example.com"}, Options: []string{"timeout:1"}},
	Hosts:      []byte("192.0.2.9 edge-1\n"),
}

func pod(change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func TestDNS(t *testing.T) {
	clusterSearches := []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"}
	for name, c := range map[string]struct {
		node   hostfiles.Node
		change func(*corev1.PodSpec)
		want   runtimeiface.DNS
		notes  int
	}{
		"ClusterFirst is the default": {node: node,
			want: runtimeiface.DNS{Servers: []string{"10.96.0.2"}, Searches: clusterSearches, Options: []string{"ndots:5"}}},
		"on the node's network it is the node's": {node: node,
			change: func(s *corev1.PodSpec) { s.HostNetwork, s.DNSPolicy = true, corev1.DNSClusterFirst }, want: node.ResolvConf},
		"unless asked for": {node: node,
			change: func(s *corev1.PodSpec) { s.HostNetwork, s.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet },
			want:   runtimeiface.DNS{Servers: []string{"10.96.0.2"}, Searches: clusterSearches, Options: []string{"ndots:5"}}},
		"without cluster DNS it is the node's, and says so": {node: hostfiles.Node{ResolvConf: node.ResolvConf},
			want: node.ResolvConf, notes: 1},
		"None has what the pod says": {node: node, change: func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSNone
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"8.8.8.8"}, Searches: []string{"a"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "edns0"}}}
		}, want: runtimeiface.DNS{Servers: []string{"8.8.8.8"}, Searches: []string{"a"}, Options: []string{"ndots:2", "edns0"}}},
		"what the pod says is added, replaces options and repeats nothing": {node: node, change: func(s *corev1.PodSpec) {
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"10.96.0.2", "8.8.8.8"}, Searches: []string{"example.com", "b"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("1")}}}
		}, want: runtimeiface.DNS{Servers: []string{"10.96.0.2", "8.8.8.8"}, Searches: append(clusterSearches, "b"), Options: []string{"ndots:1"}}},
		"three servers at most": {node: node, change: func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSNone
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}
		}, want: runtimeiface.DNS{Servers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3"}}, notes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, notes, err := c.node.DNS(pod(c.change))
			if err != nil || !reflect.DeepEqual(*got, c.want) || len(notes) != c.notes {
				t.Errorf("got %+v, notes %q, %v\nwant %+v", got, notes, err, c.want)
			}
		})
	}
}

func TestSearchDomainsHaveLimits(t *testing.T) {
	long := strings.Repeat("a", 1023) // two and the space between them are 2047
	config := &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{long, long[1:] + "b", "c", "d"}}
	got, notes, err := node.DNS(pod(func(s *corev1.PodSpec) { s.DNSPolicy, s.DNSConfig = corev1.DNSNone, config }))
	if err != nil || len(got.Searches) != 2 || len(notes) != 1 {
		t.Errorf("%d search domains, notes %q, %v", len(got.Searches), notes, err)
	}
}

func TestHostname(t *testing.T) {
	for name, c := range map[string]struct {
		change         func(*corev1.PodSpec)
		hostname, fqdn string
	}{
		"the pod's name":        {hostname: "web"},
		"as said":               {change: func(s *corev1.PodSpec) { s.Hostname = "h" }, hostname: "h"},
		"on the node's network": {change: func(s *corev1.PodSpec) { s.HostNetwork = true }, hostname: "edge-1"},
		"with a subdomain": {change: func(s *corev1.PodSpec) { s.Subdomain = "sub" },
			hostname: "web", fqdn: "web.sub.shop.svc.cluster.local"},
		"all of it": {change: func(s *corev1.PodSpec) { s.Subdomain, s.SetHostnameAsFQDN = "sub", new(true) },
			hostname: "web.sub.shop.svc.cluster.local", fqdn: "web.sub.shop.svc.cluster.local"},
		"cut at 63, not behind a dash": {change: func(s *corev1.PodSpec) { s.Hostname = strings.Repeat("a", 62) + "-b" },
			hostname: strings.Repeat("a", 62)},
	} {
		t.Run(name, func(t *testing.T) {
			hostname, fqdn, err := node.Hostname(pod(c.change))
			if err != nil || hostname != c.hostname || fqdn != c.fqdn {
				t.Errorf("got %q, %q, %v; want %q, %q", hostname, fqdn, err, c.hostname, c.fqdn)
			}
		})
	}
	_, _, err := node.Hostname(pod(func(s *corev1.PodSpec) {
		s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = strings.Repeat("h", 60), "sub", new(true)
	}))
	if err == nil || !strings.Contains(err.Error(), "setHostnameAsFQDN") {
		t.Errorf("a name too long for the kernel gave %v", err)
	}
}

func TestHostsOnTheNodesNetwork(t *testing.T) {
	got, err := node.HostsFile(pod(func(s *corev1.PodSpec) {
		s.HostNetwork = true
		s.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	}), nil)
	want := "# Kubernetes-managed hosts file (host network).\n192.0.2.9 edge-1\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestWriteHostsKeepsTheInode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	for _, text := range []string{"long text\n", "short\n"} {
		before, _ := os.Stat(path)
		if err := hostfiles.WriteHosts(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(path)
		if err != nil || before != nil && !os.SameFile(before, after) {
			t.Errorf("the file was replaced: %v", err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	got, err := hostfiles.ParseResolvConf(strings.NewReader(
		"# comment\nnameserver 1.1.1.1\nnameserver\nsearch a. b\nsearch c .\noptions ndots:2 rotate\nsortlist x\n"))
	want := runtimeiface.DNS{Servers: []string{"1.1.1.1"}, Searches: []string{"c", "."}, Options: []string{"ndots:2", "rotate"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a.\noptions x\n")
	f.Fuzz(func(t *testing.T, text string) {
		dns, err := hostfiles.ParseResolvConf(strings.NewReader(text))
		for _, word := range append(append(dns.Servers, dns.Searches...), dns.Options...) {
			if strings.ContainsAny(word, " \t\n") {
				t.Errorf("%q holds white space", word)
			}
		}
		if err != nil && !reflect.DeepEqual(dns, runtimeiface.DNS{}) {
			t.Error("an error and a result")
		}
	})
}

func ExampleNode_HostsFile() {
	p := pod(func(s *corev1.PodSpec) { s.Subdomain = "sub" })
	text, err := node.HostsFile(p, []string{"10.88.0.2"})
	fmt.Print(strings.ReplaceAll(string(text), "\t", " "), err)
	// Output:
	// # Kubernetes-managed hosts file.
	// 127.0.0.1 localhost
	// ::1 localhost ip6-localhost ip6-loopback
	// fe00::0 ip6-localnet
	// fe00::0 ip6-mcastprefix
	// fe00::1 ip6-allnodes
	// fe00::2 ip6-allrouters
	// 10.88.0.2 web.sub.shop.svc.cluster.local web
	// <nil>
}
