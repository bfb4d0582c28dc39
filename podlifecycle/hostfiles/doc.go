// Package hostfiles makes what a pod finds in /etc/hosts and /etc/resolv.conf
// and its host name, by the rules of Kubernetes v1.37.0 pkg/kubelet/kubelet_pods.go
// and pkg/kubelet/network/dns.
//
//	node := hostfiles.Node{Name: "edge-1", ClusterDNS: []string{"10.96.0.2"}, ClusterDomain: "cluster.local"}
//	dns, notes, err := node.DNS(pod)
//	hosts, err := node.HostsFile(pod, podIPs)
//	err = hostfiles.WriteHosts(path, hosts)
//
// It computes text and writes one file; mounting it is the caller's.
//
// Trap: a hosts file is bind-mounted by its inode, so it must be written in
// place; WriteHosts does.
package hostfiles
