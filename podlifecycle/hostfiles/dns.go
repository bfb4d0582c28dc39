package hostfiles

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Limits of resolvers, as Kubernetes keeps them
// (v1.37.0 pkg/apis/core/validation/validation.go).
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchBytes = 2048
	maxResolvConf  = 64 << 10
)

// DNS gives the pod's resolv.conf. Notes say what was left out for being over
// the limits of resolvers (3 servers, 32 search domains, 2048 characters), or
// that ClusterFirst became Default because the node has no cluster DNS.
func (n Node) DNS(pod *corev1.Pod) (dns *runtimeiface.DNS, notes []string, err error) {
	result := runtimeiface.DNS{}
	switch policy := n.policy(pod); policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		result = clone(n.ResolvConf)
	case corev1.DNSClusterFirst:
		if len(n.ClusterDNS) == 0 {
			notes = append(notes, "dnsPolicy ClusterFirst: the node has no cluster DNS, so its own resolv.conf is used")
			result = clone(n.ResolvConf)
			break
		}
		result.Servers = slices.Clone(n.ClusterDNS)
		if domain := n.ClusterDomain; domain != "" {
			result.Searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		}
		result.Searches = append(result.Searches, n.ResolvConf.Searches...)
		result.Options = []string{"ndots:5"}
	default:
		return nil, nil, fmt.Errorf("spec.dnsPolicy: %q is not known", policy)
	}
	if config := pod.Spec.DNSConfig; config != nil {
		result.Servers = append(result.Servers, config.Nameservers...)
		result.Searches = append(result.Searches, config.Searches...)
		for _, option := range config.Options {
			result.Options = setOption(result.Options, option)
		}
	}
	result.Servers, result.Searches = unique(result.Servers), unique(result.Searches)
	return &result, append(notes, limit(&result)...), nil
}

// policy that applies: on the node's network ClusterFirst means the node's own.
func (n Node) policy(pod *corev1.Pod) corev1.DNSPolicy {
	switch pod.Spec.DNSPolicy {
	case corev1.DNSClusterFirstWithHostNet:
		return corev1.DNSClusterFirst
	case corev1.DNSClusterFirst, "":
		if pod.Spec.HostNetwork {
			return corev1.DNSDefault
		}
		return corev1.DNSClusterFirst
	}
	return pod.Spec.DNSPolicy
}

func clone(dns runtimeiface.DNS) runtimeiface.DNS {
	return runtimeiface.DNS{
		Servers: slices.Clone(dns.Servers), Searches: slices.Clone(dns.Searches), Options: slices.Clone(dns.Options),
	}
}

// setOption replaces the option of that name, or adds it.
func setOption(options []string, option corev1.PodDNSConfigOption) []string {
	text := option.Name
	if option.Value != nil && *option.Value != "" {
		text += ":" + *option.Value
	}
	for i, old := range options {
		if name, _, _ := strings.Cut(old, ":"); name == option.Name {
			options[i] = text
			return options
		}
	}
	return append(options, text)
}

func unique(all []string) []string {
	var result []string
	for _, one := range all {
		if !slices.Contains(result, one) {
			result = append(result, one)
		}
	}
	return result
}

func limit(dns *runtimeiface.DNS) (notes []string) {
	if len(dns.Servers) > maxServers {
		notes = append(notes, fmt.Sprintf("nameservers beyond %d left out: %s", maxServers, strings.Join(dns.Servers[maxServers:], " ")))
		dns.Servers = dns.Servers[:maxServers]
	}
	length, keep := 0, 0
	for ; keep < len(dns.Searches) && keep < maxSearches; keep++ {
		length += len(dns.Searches[keep])
		if keep > 0 {
			length++ // the space before it
		}
		if length > maxSearchBytes {
			break
		}
	}
	if keep < len(dns.Searches) {
		notes = append(notes, fmt.Sprintf("search domains beyond %d, or %d characters, left out: %s",
			maxSearches, maxSearchBytes, strings.Join(dns.Searches[keep:], " ")))
		dns.Searches = dns.Searches[:keep]
	}
	return notes
}

// ParseResolvConf reads resolv.conf text, at most 64 KiB. As for resolvers, of
// several search or domain lines the last counts, and unknown lines are passed
// over. A search domain of "." stays, other closing dots go.
func ParseResolvConf(r io.Reader) (runtimeiface.DNS, error) {
	var dns runtimeiface.DNS
	scanner := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	scanner.Buffer(nil, maxResolvConf+1)
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		switch keyword, values := fields[0], fields[1:]; keyword {
		case "nameserver":
			if len(values) > 0 {
				dns.Servers = append(dns.Servers, values[0])
			}
		case "search", "domain":
			dns.Searches = nil
			for _, domain := range values {
				if domain != "." {
					domain = strings.TrimSuffix(domain, ".")
				}
				dns.Searches = append(dns.Searches, domain)
			}
		case "options":
			dns.Options = append(dns.Options, values...)
		}
	}
	if err := scanner.Err(); err != nil {
		return runtimeiface.DNS{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	return dns, nil
}
