package hostfiles

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Host names of the kernel have at most 64 bytes, DNS labels 63.
const (
	maxKernelName = 64
	maxLabel      = 63
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
// "" if the pod has no subdomain. spec.setHostnameAsFQDN makes the first the
// second; the error says that it is then longer than the kernel's 64 bytes.
// Pods on the node's network have the node's name.
func (n Node) Hostname(pod *corev1.Pod) (hostname, fqdn string, err error) {
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		return n.Name, "", nil
	}
	if override := pod.Spec.HostnameOverride; override != nil {
		return *override, "", nil
	}
	hostname = pod.Spec.Hostname
	if hostname == "" {
		hostname = pod.Name
	}
	if len(hostname) > maxLabel {
		hostname = strings.TrimRight(hostname[:maxLabel], "-.")
	}
	if pod.Spec.Subdomain != "" {
		fqdn = strings.Join([]string{hostname, pod.Spec.Subdomain, pod.Namespace, "svc"}, ".")
		if n.ClusterDomain != "" {
			fqdn += "." + n.ClusterDomain
		}
	}
	if fqdn != "" && pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if len(fqdn) > maxKernelName {
			return "", "", fmt.Errorf("spec.setHostnameAsFQDN: %s has %d bytes, host names at most %d", fqdn, len(fqdn), maxKernelName)
		}
		return fqdn, fqdn, nil
	}
	return hostname, fqdn, nil
}

// The head of a hosts file that an agent keeps; programs look for the first
// line, as the kubelet writes it.
const (
	headPod = "# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n"
	headHost    = "# Kubernetes-managed hosts file (host network).\n"
	headAliases = "\n# Entries added by HostAliases.\n"
)

// HostsFile gives the content of the pod's /etc/hosts. podIPs in the order of
// the status; unused on the host's network.
func (n Node) HostsFile(pod *corev1.Pod, podIPs []string) ([]byte, error) {
	var out bytes.Buffer
	if pod.Spec.HostNetwork {
		out.WriteString(headHost)
		out.Write(n.Hosts)
	} else {
		out.WriteString(headPod)
		hostname, fqdn, err := n.Hostname(pod)
		if err != nil {
			return nil, err
		}
		for _, ip := range podIPs {
			if fqdn != "" && fqdn != hostname {
				fmt.Fprintf(&out, "%s\t%s\t%s\n", ip, fqdn, hostname)
			} else {
				fmt.Fprintf(&out, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		out.WriteString(headAliases)
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&out, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return out.Bytes(), nil
}

// WriteHosts writes content to path, keeping the inode if the file is there,
// because it may be bind-mounted into containers. Same content: nothing is written.
func WriteHosts(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	return nil
}
