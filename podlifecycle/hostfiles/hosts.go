package hostfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ErrHostname: a pod's host name or subdomain cannot be one.
var ErrHostname = errors.New("bad host name")

const (
	maxHostname = 63
	// What the kernel takes.
	maxFQDN = 64
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
// second. On the node's network both are the node's. The error wraps
// ErrHostname.
func (n Node) Hostname(pod *corev1.Pod) (hostname, fqdn string, err error) {
	if pod.Spec.HostNetwork {
		return n.Name, "", nil
	}
	hostname, domain, err := n.names(pod)
	if err != nil || domain == "" {
		return hostname, "", err
	}
	fqdn = hostname + "." + domain
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if len(fqdn) > maxFQDN {
			return "", "", fmt.Errorf("spec.setHostnameAsFQDN: %s is too long (%d characters is the max, %d characters requested): %w",
				fqdn, maxFQDN, len(fqdn), ErrHostname)
		}
		hostname = fqdn
	}
	return hostname, fqdn, nil
}

// names gives the short name and the domain, which may be "".
func (n Node) names(pod *corev1.Pod) (hostname, domain string, err error) {
	if override := pod.Spec.HostnameOverride; override != nil {
		if messages := validation.IsDNS1123Subdomain(*override); len(messages) > 0 || len(*override) > maxFQDN {
			return "", "", fmt.Errorf("spec.hostnameOverride %q: %w", *override, ErrHostname)
		}
		return *override, "", nil
	}
	hostname = pod.Name
	if pod.Spec.Hostname != "" {
		if messages := validation.IsDNS1123Label(pod.Spec.Hostname); len(messages) > 0 {
			return "", "", fmt.Errorf("spec.hostname %q: %s: %w", pod.Spec.Hostname, messages[0], ErrHostname)
		}
		hostname = pod.Spec.Hostname
	}
	if len(hostname) > maxHostname {
		hostname = strings.TrimRight(hostname[:maxHostname], "-.")
	}
	if hostname == "" {
		return "", "", fmt.Errorf("of pod %q: %w", pod.Name, ErrHostname)
	}
	if pod.Spec.Subdomain != "" {
		if messages := validation.IsDNS1123Label(pod.Spec.Subdomain); len(messages) > 0 {
			return "", "", fmt.Errorf("spec.subdomain %q: %s: %w", pod.Spec.Subdomain, messages[0], ErrHostname)
		}
		domain = strings.TrimSuffix(pod.Spec.Subdomain+"."+pod.Namespace+".svc."+n.ClusterDomain, ".")
	}
	return hostname, domain, nil
}

// HostsFile gives the content of the pod's /etc/hosts. podIPs in the order of
// the status; unused on the node's network, where Hosts is the file.
func (n Node) HostsFile(pod *corev1.Pod, podIPs []string) ([]byte, error) {
	var out bytes.Buffer
	if pod.Spec.HostNetwork {
		out.WriteString("# Kubernetes-managed hosts file (host network).\n")
		out.Write(n.Hosts)
		if len(n.Hosts) > 0 && !bytes.HasSuffix(n.Hosts, []byte("\n")) {
			out.WriteByte('\n')
		}
	} else {
		hostname, domain, err := n.names(pod)
		if err != nil {
			return nil, err
		}
		out.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range podIPs {
			out.WriteString(ip)
			if domain != "" {
				out.WriteString("\t" + hostname + "." + domain)
			}
			out.WriteString("\t" + hostname + "\n")
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		out.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			out.WriteString(alias.IP + "\t" + strings.Join(alias.Hostnames, "\t") + "\n")
		}
	}
	return out.Bytes(), nil
}

// WriteHosts writes content to path with mode 0644, keeping the inode if the
// file is there, because it may be bind-mounted into containers. Same content:
// nothing is written.
func WriteHosts(path string, content []byte) error {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // in spite of the umask
}
