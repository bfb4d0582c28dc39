// Package proxyrules turns Services and EndpointSlices into a node's packet
// rules, and says what they do to a packet.
//
// Build computes a Table: every address, protocol and port at which a Service
// stands, and its endpoints. Diff tells two tables apart, element by element. A
// Dialect writes tables into a kernel: package nftables, or iptables where there
// is no nf_tables. Trace explains what
// becomes of a packet, from the same Table. Endpoints makes EndpointSlices from
// pods where no controller does. Proxy ties them together:
//
//	dialect, err := nftables.Open(nftables.Config{Table: "nodekit"})
//	proxy, err := proxyrules.New(proxyrules.Config{
//		Dialect: dialect,
//		Node:    proxyrules.Node{Addresses: addresses, PodCIDRs: podCIDRs},
//	})
//	go proxy.Run(ctx)
//	proxy.Set(services, slices) // whole sets, whenever anything changes
//	fmt.Print(proxy.Trace(packet))
//
// An informer's cache of 10,000 Services takes more memory than their rules do:
// Trim, as its transform, keeps little more than Build reads.
//
// Each sync leaves a record (Proxy.Syncs), with what changed, why and how long it
// took; another program's change of the rules too, if Config.Watch tells of it.
// Package proxyhealth makes health checks and metrics of them.
//
// It watches nothing itself, allocates no addresses or ports, and sets up no
// interfaces. Package hostnet has what a node owes its pods beside Services.
//
// Traps:
//   - What cannot be done as asked is told as a Problem and the rest is done.
//   - Objects given to Build or Set must not be changed afterwards; make new
//     ones, as informers do.
//   - Rules stay when Run ends, so that nothing breaks while an agent restarts.
//     Cleanup removes them.
package proxyrules
