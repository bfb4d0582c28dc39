// Package nodekit is a map of the module; it holds no code.
//
// nodekit is reusable parts for node agents: what controller-runtime is to
// controllers, nodekit is to those who build their own kubelet, kube-proxy,
// cAdvisor or edge agent. The parts do not know each other; a main introduces
// them, and a user may take one and leave the rest.
//
// Package runtimeiface says what a container runtime is: sandboxes, containers,
// images, streams, logs and events, with promises that runtimetest checks on
// any backend. Package runtimeiface/oci is a backend without a daemon: it
// drives an OCI runtime such as runc, with images, network and one small shim
// per pod. Package runtimeiface/crilog reads the logs, runtimeiface/dockerconfig
// credentials.
//
// Package podlifecycle brings desired pods to running pods: a pure, exported
// Plan that decides, a Manager that acts and records why, and helpers that
// stand alone: manifests, environment, volumes, probes, QoS, security context.
//
// Package proxyrules brings Services to kernel rules: a neutral table, its
// differences, the nftables dialect by netlink and the iptables dialect, a trace
// that says which rule sends a packet where, health and metrics (proxyhealth),
// and what else a node owes its pods: masquerade, routes, host ports (hostnet).
//
// Package metrics reads cgroups at little cost and gives values, Prometheus
// series, the Summary API and the machine's description.
//
// Package statusserver serves what the others know over HTTP, guarded by
// default, with a page for people.
//
// The program examples/quickstart wires all five; start there. The program
// examples/dryrun prints what podlifecycle's Plan would do for a manifest, and
// examples/nodemonitor meters a machine as cAdvisor does; examples/serviceproxy
// takes kube-proxy's place.
package nodekit
