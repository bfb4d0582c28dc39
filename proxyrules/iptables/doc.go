// Package iptables writes proxyrules tables into the kernel as iptables rules,
// for kernels without nf_tables. It runs iptables-restore and ip6tables-restore
// with text, as kube-proxy's mode of that name does (Kubernetes v1.37.0
// pkg/proxy/iptables/proxier.go), and so its cost grows with the number of
// Services: where there is nf_tables, package nftables is the better one.
//
//	dialect, err := iptables.Open(iptables.Config{Prefix: "NODEKIT"})
//	if err != nil { ... }
//	defer dialect.Close()
//	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Node: node})
//
// Every Front does what it does with nftables: both families, TCP, UDP and SCTP,
// the policies, affinity, source ranges, refusals, masquerade, hairpin, egress,
// and UDP flows to endpoints that left are forgotten. All chains begin with
// Config.Prefix; those of others, and rules that others put beside our jumps, are
// never touched.
//
// Traps, beside those of package nftables:
//   - Tables and families are written one after another: each of filter and nat of
//     IPv4 and of IPv6 is changed whole or not at all, all four together are not.
//     After an error the next Sync writes everything again.
//   - Each Sync that changes something writes all rules. 1,000 Services of 10
//     endpoints take seconds.
//   - That others removed our chains is found by Config.CheckEvery of the Proxy; that
//     they edited a rule of ours is not. Nobody tells of it at once.
//   - Affinity is kept by the match "recent", whose lists hold 100 clients each unless
//     the module xt_recent was given another ip_list_tot: beyond that, who came
//     longest ago is balanced anew. Endpoints do not keep an index.
//
// Needs CAP_NET_ADMIN in the network namespace and iptables 1.8.3 or later.
package iptables
