package hostfiles

import (
	"io"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Node is what of the node enters a pod's files.
type Node struct {
	// Name of the node, and so the host name of pods on its network.
	Name string
	// ClusterDNS are the servers for dnsPolicy ClusterFirst; none makes it Default.
	ClusterDNS []string
	// ClusterDomain, such as cluster.local; "" gives no search domains of the cluster.
	ClusterDomain string
	// ResolvConf is the node's own, see ParseResolvConf.
	ResolvConf runtimeiface.DNS
	// Hosts is the node's /etc/hosts, for pods on its network.
	Hosts []byte
}

// Hostname gives the host name inside the pod, and the fully qualified one or
// "" if the pod has no subdomain. spec.setHostnameAsFQDN makes the first the second.
func (n Node) Hostname(pod *corev1.Pod) (hostname, fqdn string, err error) { return "", "", nil }

// DNS gives the pod's resolv.conf. Notes say what was left out for being over
// the limits of resolvers (3 servers, 32 search domains, 2048 characters).
func (n Node) DNS(pod *corev1.Pod) (dns *runtimeiface.DNS, notes []string, err error) {
	return nil, nil, nil
}

// HostsFile gives the content of the pod's /etc/hosts. podIPs in the order of
// the status; unused on the host's network.
func (n Node) HostsFile(pod *corev1.Pod, podIPs []string) ([]byte, error) { return nil, nil }

// WriteHosts writes content to path, keeping the inode if the file is there,
// because it may be bind-mounted into containers. Same content: nothing is written.
func WriteHosts(path string, content []byte) error { return nil }

// ParseResolvConf reads resolv.conf text, at most 64 KiB.
func ParseResolvConf(r io.Reader) (runtimeiface.DNS, error) { return runtimeiface.DNS{}, nil }
