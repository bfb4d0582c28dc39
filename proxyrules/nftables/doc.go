// Package nftables writes proxyrules tables into the kernel as nftables rules,
// by netlink: no nft tool is run, and each change is one transaction.
//
// Services and endpoints are elements of sets and maps. The chains around them
// are made once; a chain that balances over 9 to 12 endpoints is made the first
// time a Service has as many. So one endpoint that changes costs two elements,
// whatever the number of Services; one more than such a chain takes costs another,
// and 0.1 us for each Service, as the kernel then looks through all verdicts.
//
// Session affinity needs no set and no chain of its own for a Service: the
// kernel keeps a number for each client and Service, and another map says which
// endpoint has that number, if it is still there. While rules look at the first
// packet of such a connection, its priority (SO_PRIORITY) holds that number; it
// is 0 when the packet leaves. At most 1,048,576 clients are remembered for each
// address family and protocol; others are balanced as without, and the kernel tells
// nobody: the size of the map affinity-tcp, as nft lists it, does.
//
//	dialect, err := nftables.Open(nftables.Config{Table: "nodekit"})
//	if err != nil { ... }
//	defer dialect.Close()
//	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Node: node})
//
// What an earlier run left is adopted: the first Sync reads it, and one
// transaction brings it to what it should be; where there is much, the same
// transaction writes all anew, which takes less time. The generation number of the
// kernel's rules tells, at the cost of one question, whether anybody else
// changed rules since; only then are they read again.
//
// A packet on its way while a transaction ends may find neither what was nor what
// is: chains like prerouting-again look at it once more, and cost nothing to those
// that a Service took.
//
// Watch, for proxyrules.Config.Watch, hears of others' changes from the kernel
// within milliseconds, and with it those of other tables cost nothing.
//
// Connections stay where they are when their endpoint leaves, as conntrack
// keeps them; UDP flows to it are forgotten, since they would go on for ever.
//
// Traps:
//   - net.ipv4.ip_forward (and net.ipv6.conf.all.forwarding) must be 1. Where
//     pods on one bridge are routed through the node, it must not tell them of
//     shorter ways, since answers would go around the translation:
//     net.ipv4.conf.{all,default}.send_redirects 0 on the node, and
//     net.ipv6.conf.default.accept_redirects 0 in the pods. This package sets
//     no sysctl.
//   - Where pods hang on a bridge, their ports need hairpin mode: with
//     br_netfilter (Docker loads it) the bridge turns redirected packets round
//     by itself, also back to the pod that sent them.
//   - Cleanup ends connections that go through a Service, unless other NAT
//     rules are left in the namespace: the kernel then stops translating.
//   - A process on the node can only connect to an address that the node has a
//     route for: without a default route, add one for the service network.
//   - Node ports answer at Node.Addresses, so not at 127.0.0.1.
//   - The kernel translates a connection once. What another program's rules sent to
//     an address of a Service gets no endpoint of it, and is not refused if there is
//     none: to look for that would cost each connection two look-ups.
//   - All rules of the table are ours. What others put into it is removed at
//     the next Sync. Two agents with one table undo each other's work: with Watch
//     each is told of the other, and a Proxy then repairs twice a second at most.
//
// Needs CAP_NET_ADMIN in the network namespace and Linux 5.9 or later.
package nftables
