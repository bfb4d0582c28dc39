package rows_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func init() { rows = append(rows, resolvers) }

// nodeResolvConf is the node's own, clusterDNS whom pods ask about a cluster.
const (
	nodeResolvConf = "nameserver 192.0.2.10\nnameserver 192.0.2.11\nsearch corp.test\noptions timeout:3\n"
	clusterDNS     = "10.96.0.53"
)

func resolvers(n *node) {
	asNode := strings.Split(strings.TrimSpace(nodeResolvConf), "\n")
	inCluster := []string{"nameserver " + clusterDNS, "search default.svc.cluster.test svc.cluster.test cluster.test corp.test", "options ndots:5"}
	for policy, want := range map[string][]string{
		"dnsPolicy: Default": asNode,
		"dnsPolicy: Default\n  dnsConfig: {searches: [more.test], options: [{name: timeout, value: '1'}]}": {
			"nameserver 192.0.2.10", "nameserver 192.0.2.11", "search corp.test more.test", "options timeout:1"},
		"dnsPolicy: ClusterFirst":                                   inCluster,
		"dnsPolicy: ClusterFirst\n  hostNetwork: true":              asNode,
		"dnsPolicy: ClusterFirstWithHostNet\n  hostNetwork: true":   inCluster,
		"dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.53]}": {"nameserver 192.0.2.53"},
	} {
		It("asks whom it shall, with "+strings.ReplaceAll(policy, "\n ", ","), func() {
			got := n.prints("asks", "cat /etc/resolv.conf", "\n  "+policy)
			Expect(strings.Split(strings.TrimSpace(got), "\n")).To(ConsistOf(want))
		})
	}
}
