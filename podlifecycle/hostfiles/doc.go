// Package hostfiles works out the files that tell a pod who it is and whom it
// may ask: /etc/hosts, /etc/resolv.conf and the host name, as the kubelet of
// Kubernetes v1.37.0 does (pkg/kubelet/kubelet_pods.go, pkg/kubelet/network/dns).
//
//	node := hostfiles.Node{Name: "n1", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local"}
//	node.ResolvConf, err = hostfiles.ParseResolvConf(file)
//	hostname, fqdn, err := node.Hostname(pod)
//	dns, notes, err := node.DNS(pod)
//	hosts, err := node.HostsFile(pod, []string{"10.88.0.7"})
//	err = hostfiles.WriteHosts(path, hosts)
//
// All but WriteHosts is pure. It answers no DNS queries.
//
// # Traps
//
//   - The hosts file names the pod's IP, so it is written after the sandbox is up, and
//     again for a new sandbox. WriteHosts keeps the inode, which is bind-mounted.
//   - dnsPolicy ClusterFirst means Default for a pod on the node's network.
package hostfiles
