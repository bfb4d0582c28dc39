// Package hostnet does what a node owes its pods beside Services, for agents
// whose CNI plug-ins do not: it hides the pods' addresses from the world outside
// (masquerade, with exceptions), leads to other nodes' pods (routes), and maps
// ports of the node to pods (hostPort).
//
//	host, err := hostnet.Open(hostnet.Config{Table: "nodekit-host"})
//	if err != nil { ... }
//	defer host.Close()
//	stats, err := host.Sync(ctx, hostnet.Want{
//		Pods:      []netip.Prefix{podCIDR},
//		Except:    []netip.Prefix{clusterCIDR}, // other nodes see the pods' own addresses
//		Routes:    []hostnet.Route{{To: otherPods, Via: otherNode}},
//		HostPorts: []hostnet.HostPort{{Port: 8080, Protocol: "TCP", To: webPod}},
//	})
//
// A Want is all there shall be: Sync brings the node there and writes nothing
// if it is there already, whoever made it so; Cleanup removes all. Rules are one
// nftables table of family inet, written in one transaction; routes are told
// from others' by their protocol number. What others made is never touched: a
// route of theirs that is in the way is an error, and the rest is done.
//
// Traps:
//   - net.ipv4.ip_forward (and net.ipv6.conf.all.forwarding) must be 1: this
//     package sets no sysctl.
//   - proxyrules.Node.MasqueradeEgress does the same as Pods and Except for who
//     runs a Proxy: use one of both. runtimeiface/oci has host ports of its own.
//   - A host port answers at all addresses of the node but loopback, and takes
//     what is for the node before its own programs get it.
//   - Connections stay where they are when a mapping goes, as conntrack keeps
//     them.
//   - A rule that another program edits in place stays so until the Want changes;
//     what it removes or adds is put right by the next Sync.
//
// Needs CAP_NET_ADMIN in the network namespace and Linux 5.9 or later.
package hostnet
