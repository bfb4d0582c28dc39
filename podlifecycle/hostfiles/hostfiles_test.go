package hostfiles_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/runtimeiface"
)

var node = hostfiles.Node{
	Name: "n1", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local",
	ResolvConf: runtimeiface.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}, Options: []string{"edns0"}},
	Hosts:      []byte("127.0.0.1 localhost\n192.0.2.1 n1"),
}

func pod(change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func to[T any](v T) *T { return &v }

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62)
	for name, test := range map[string]struct {
		spec           func(*corev1.PodSpec)
		hostname, fqdn string
		fails          bool
	}{
		"pod's name":         {nil, "web-0", "", false},
		"given":              {func(s *corev1.PodSpec) { s.Hostname = "h" }, "h", "", false},
		"subdomain":          {func(s *corev1.PodSpec) { s.Subdomain = "db" }, "web-0", "web-0.db.shop.svc.cluster.local", false},
		"as FQDN":            {func(s *corev1.PodSpec) { s.Subdomain, s.SetHostnameAsFQDN = "db", to(true) }, "web-0.db.shop.svc.cluster.local", "web-0.db.shop.svc.cluster.local", false},
		"FQDN too long":      {func(s *corev1.PodSpec) { s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = long, "db", to(true) }, "", "", true},
		"FQDN without":       {func(s *corev1.PodSpec) { s.SetHostnameAsFQDN = to(true) }, "web-0", "", false},
		"override":           {func(s *corev1.PodSpec) { s.HostnameOverride, s.Subdomain = to("a.b.c"), "db" }, "a.b.c", "", false},
		"override too long":  {func(s *corev1.PodSpec) { s.HostnameOverride = to(long + ".aa") }, "", "", true},
		"bad":                {func(s *corev1.PodSpec) { s.Hostname = "a.b" }, "", "", true},
		"bad subdomain":      {func(s *corev1.PodSpec) { s.Subdomain = "A" }, "", "", true},
		"the node's network": {func(s *corev1.PodSpec) { s.HostNetwork, s.Subdomain = true, "db" }, "n1", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			hostname, fqdn, err := node.Hostname(pod(test.spec))
			if test.fails {
				g.Expect(err).To(MatchError(hostfiles.ErrHostname))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(hostname).To(Equal(test.hostname))
			g.Expect(fqdn).To(Equal(test.fqdn))
		})
	}
	g := NewWithT(t)
	p := pod(nil)
	p.Name = long + ".bcd"
	hostname, _, err := node.Hostname(p)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(hostname).To(Equal(long), "cut at 63, no dot at the end")
	p.Name = ""
	_, _, err = node.Hostname(p)
	g.Expect(err).To(MatchError(hostfiles.ErrHostname))
}

func TestHostsFile(t *testing.T) {
	const head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
	alias := func(s *corev1.PodSpec) {
		s.HostAliases = []corev1.HostAlias{{IP: "10.0.0.9", Hostnames: []string{"a", "b.example"}}, {IP: "10.0.0.8", Hostnames: []string{"c"}}}
	}
	const aliases = "\n# Entries added by HostAliases.\n10.0.0.9\ta\tb.example\n10.0.0.8\tc\n"
	for name, test := range map[string]struct {
		spec func(*corev1.PodSpec)
		ips  []string
		want string
	}{
		"one IP":             {nil, []string{"10.88.0.7"}, head + "10.88.0.7\tweb-0\n"},
		"two IPs, subdomain": {func(s *corev1.PodSpec) { s.Subdomain = "db" }, []string{"10.88.0.7", "fd00::7"}, head + "10.88.0.7\tweb-0.db.shop.svc.cluster.local\tweb-0\nfd00::7\tweb-0.db.shop.svc.cluster.local\tweb-0\n"},
		"FQDN as hostname":   {func(s *corev1.PodSpec) { s.Subdomain, s.SetHostnameAsFQDN = "db", to(true) }, []string{"10.88.0.7"}, head + "10.88.0.7\tweb-0.db.shop.svc.cluster.local\tweb-0\n"},
		"aliases":            {alias, []string{"10.88.0.7"}, head + "10.88.0.7\tweb-0\n" + aliases},
		"the node's network": {func(s *corev1.PodSpec) { s.HostNetwork = true; alias(s) }, nil, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n192.0.2.1 n1\n" + aliases},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := node.HostsFile(pod(test.spec), test.ips)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(got)).To(Equal(test.want))
		})
	}
	_, err := node.HostsFile(pod(func(s *corev1.PodSpec) { s.Hostname = "A" }), nil)
	NewWithT(t).Expect(err).To(MatchError(hostfiles.ErrHostname))
}

func TestDNS(t *testing.T) {
	clusterSearches := []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}
	cluster := runtimeiface.DNS{Servers: []string{"10.96.0.10"}, Searches: clusterSearches, Options: []string{"ndots:5"}}
	for name, test := range map[string]struct {
		spec func(*corev1.PodSpec)
		want runtimeiface.DNS
	}{
		"ClusterFirst":            {func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSClusterFirst }, cluster},
		"none given":              {nil, cluster},
		"ClusterFirst, node's":    {func(s *corev1.PodSpec) { s.HostNetwork = true }, node.ResolvConf},
		"ClusterFirstWithHostNet": {func(s *corev1.PodSpec) { s.HostNetwork, s.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet }, cluster},
		"Default":                 {func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }, node.ResolvConf},
		"None": {func(s *corev1.PodSpec) {
			s.DNSPolicy, s.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}}
		}, runtimeiface.DNS{Servers: []string{"1.1.1.1"}}},
		"added, replaced, not twice": {func(s *corev1.PodSpec) {
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "10.96.0.10"}, Searches: []string{"corp.example", "x"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: to("2")}, {Name: "edns0"}}}
		}, runtimeiface.DNS{Servers: []string{"10.96.0.10", "1.1.1.1"}, Searches: append(slices.Clone(clusterSearches), "x"), Options: []string{"ndots:2", "edns0"}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, notes, err := node.DNS(pod(test.spec))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(notes).To(BeEmpty())
			g.Expect(*got).To(Equal(test.want))
		})
	}
}

func TestDNSTellsWhatItLeavesOut(t *testing.T) {
	g := NewWithT(t)
	var searches []string
	for i := range 40 {
		searches = append(searches, fmt.Sprintf("s%d", i))
	}
	got, notes, err := node.DNS(pod(func(s *corev1.PodSpec) {
		s.DNSPolicy = corev1.DNSNone
		s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}, Searches: searches}
	}))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.Servers).To(HaveLen(3))
	g.Expect(got.Searches).To(HaveLen(32))
	g.Expect(notes).To(HaveLen(2))
	g.Expect(notes[0]).To(HaveSuffix(": 1.1.1.4"))

	got, notes, err = node.DNS(pod(func(s *corev1.PodSpec) {
		s.DNSPolicy = corev1.DNSNone
		s.DNSConfig = &corev1.PodDNSConfig{Searches: []string{strings.Repeat("a", 1024), strings.Repeat("b", 1023), "c"}}
	}))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(strings.Join(got.Searches, " "))).To(Equal(2048))
	g.Expect(notes).To(HaveLen(1))

	bare := hostfiles.Node{ResolvConf: node.ResolvConf}
	got, notes, err = bare.DNS(pod(nil))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(*got).To(Equal(node.ResolvConf))
	g.Expect(notes).To(ConsistOf(ContainSubstring("no cluster DNS")))

	_, _, err = node.DNS(pod(func(s *corev1.PodSpec) { s.DNSPolicy = "x" }))
	g.Expect(err).To(MatchError(hostfiles.ErrDNSPolicy))
}

func TestDNSSharesNothing(t *testing.T) {
	g := NewWithT(t)
	got, _, err := node.DNS(pod(func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }))
	g.Expect(err).NotTo(HaveOccurred())
	got.Servers[0], got.Options[0] = "x", "x"
	g.Expect(node.ResolvConf.Servers[0]).To(Equal("192.0.2.53"))
	g.Expect(node.ResolvConf.Options[0]).To(Equal("edns0"))
}

func TestParseResolvConf(t *testing.T) {
	g := NewWithT(t)
	got, err := hostfiles.ParseResolvConf(strings.NewReader("# c\n; c\n nameserver 192.0.2.53 # x\nnameserver\nsearch old\nsearch corp.example. . x\n\toptions ndots:2 edns0 edns0\nsortlist 1\noptions rotate"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(Equal(runtimeiface.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example", ".", "x"}, Options: []string{"ndots:2", "edns0", "rotate"}}))
	_, err = hostfiles.ParseResolvConf(bytes.NewReader(bytes.Repeat([]byte("#\n"), 32<<10+1)))
	g.Expect(err).To(MatchError(hostfiles.ErrTooLarge))
	_, err = hostfiles.ParseResolvConf(bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)))
	g.Expect(err).To(HaveOccurred())
	_, err = hostfiles.ParseResolvConf(iotest.ErrReader(errors.New("no disk")))
	g.Expect(err).To(MatchError("read resolv.conf: no disk"))
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a b\noptions ndots:5")
	f.Fuzz(func(t *testing.T, text string) {
		dns, err := hostfiles.ParseResolvConf(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, word := range slices.Concat(dns.Servers, dns.Searches, dns.Options) {
			if strings.ContainsAny(word, " \t\n\r") {
				t.Fatalf("%q is more than a word", word)
			}
		}
	})
}

func TestWriteHostsKeepsTheInode(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "etc-hosts")
	g.Expect(hostfiles.WriteHosts(path, []byte("one, long\n"))).To(Succeed())
	first, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.Mode().Perm()).To(Equal(os.FileMode(0o644)))
	g.Expect(hostfiles.WriteHosts(path, []byte("two\n"))).To(Succeed())
	second, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.SameFile(first, second)).To(BeTrue())
	g.Expect(os.ReadFile(path)).To(BeEquivalentTo("two\n"))
	g.Expect(os.Chtimes(path, first.ModTime(), first.ModTime().Add(-1e9))).To(Succeed())
	g.Expect(hostfiles.WriteHosts(path, []byte("two\n"))).To(Succeed())
	third, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(third.ModTime().Before(first.ModTime())).To(BeTrue(), "nothing was written")
	g.Expect(hostfiles.WriteHosts(t.TempDir(), nil)).NotTo(Succeed())
}

func ExampleNode() {
	node := hostfiles.Node{ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0"}, Spec: corev1.PodSpec{Subdomain: "web"}}
	hostname, fqdn, err := node.Hostname(pod)
	fmt.Println(hostname, fqdn, err)
	dns, _, err := node.DNS(pod)
	fmt.Println(dns.Servers, dns.Searches, dns.Options, err)
	// Output:
	// web-0 web-0.web.default.svc.cluster.local <nil>
	// [10.96.0.10] [default.svc.cluster.local svc.cluster.local cluster.local] [ndots:5] <nil>
}
