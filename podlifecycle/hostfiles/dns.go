package hostfiles

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ErrTooLarge: a resolv.conf is larger than 64 KiB.
var ErrTooLarge = errors.New("larger than 64 KiB")

// ErrDNSPolicy: there is no such dnsPolicy.
var ErrDNSPolicy = errors.New("unknown dnsPolicy")

// Limits of resolvers. Source: Kubernetes v1.37.0 pkg/apis/core/validation.
const (
	maxServers      = 3
	maxSearches     = 32
	maxSearchLength = 2048
	maxResolvConf   = 64 << 10
)

// DNS gives the pod's resolv.conf; it shares nothing with n. Notes say what was
// left out for being over the limits of resolvers (3 servers, 32 search domains,
// 2048 characters), or which policy could not be followed. The error wraps
// ErrDNSPolicy.
func (n Node) DNS(pod *corev1.Pod) (dns *runtimeiface.DNS, notes []string, err error) {
	dns = &runtimeiface.DNS{}
	cluster := false
	switch pod.Spec.DNSPolicy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		*dns = n.ResolvConf
	case corev1.DNSClusterFirstWithHostNet:
		cluster = true
	case corev1.DNSClusterFirst, "":
		if cluster = !pod.Spec.HostNetwork; !cluster {
			*dns = n.ResolvConf
		}
	default:
		return nil, nil, fmt.Errorf("spec.dnsPolicy %q: %w", pod.Spec.DNSPolicy, ErrDNSPolicy)
	}
	if cluster {
		if len(n.ClusterDNS) == 0 {
			notes = append(notes, fmt.Sprintf("the node has no cluster DNS: dnsPolicy %s is followed as Default", corev1.DNSClusterFirst))
			*dns = n.ResolvConf
		} else {
			dns.Servers = n.ClusterDNS
			dns.Searches = n.ResolvConf.Searches
			if n.ClusterDomain != "" {
				dns.Searches = slices.Concat([]string{pod.Namespace + ".svc." + n.ClusterDomain, "svc." + n.ClusterDomain, n.ClusterDomain},
					n.ResolvConf.Searches)
			}
			dns.Options = []string{"ndots:5"}
		}
	}
	config := pod.Spec.DNSConfig
	if config == nil {
		config = &corev1.PodDNSConfig{}
	}
	dns.Servers = unique(slices.Concat(dns.Servers, config.Nameservers))
	dns.Searches = unique(slices.Concat(dns.Searches, config.Searches))
	dns.Options = options(dns.Options, config.Options)
	return dns, append(notes, fit(dns)...), nil
}

func unique(list []string) []string {
	var result []string
	for _, s := range list {
		if !slices.Contains(result, s) {
			result = append(result, s)
		}
	}
	return result
}

// options lets those of the pod replace others of the same name.
func options(base []string, more []corev1.PodDNSConfigOption) []string {
	result := slices.Clone(base)
	for _, option := range more {
		text := option.Name
		if option.Value != nil && *option.Value != "" {
			text += ":" + *option.Value
		}
		at := slices.IndexFunc(result, func(have string) bool {
			name, _, _ := strings.Cut(have, ":")
			return name == option.Name
		})
		if at >= 0 {
			result[at] = text
		} else {
			result = append(result, text)
		}
	}
	return result
}

// fit cuts what resolvers would not read and tells of it.
func fit(dns *runtimeiface.DNS) (notes []string) {
	if len(dns.Servers) > maxServers {
		notes = append(notes, "nameservers over the limit of 3 left out: "+strings.Join(dns.Servers[maxServers:], " "))
		dns.Servers = dns.Servers[:maxServers]
	}
	length, keep := -1, 0
	for ; keep < len(dns.Searches) && keep < maxSearches; keep++ {
		if length += 1 + len(dns.Searches[keep]); length > maxSearchLength {
			break
		}
	}
	if keep < len(dns.Searches) {
		notes = append(notes, "search domains over the limit of 32, or 2048 characters, left out: "+strings.Join(dns.Searches[keep:], " "))
		dns.Searches = dns.Searches[:keep]
	}
	return notes
}

// ParseResolvConf reads resolv.conf text of at most 64 KiB:
//
//	# comment
//	nameserver 192.0.2.53
//	search corp.example example.
//	options ndots:2 edns0
//
// A later search line replaces an earlier one, options add up, and what is not
// understood is passed over, as resolvers do. The error is ErrTooLarge or the
// reader's.
func ParseResolvConf(r io.Reader) (runtimeiface.DNS, error) {
	var dns runtimeiface.DNS
	limited := &io.LimitedReader{R: r, N: maxResolvConf + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxResolvConf+2)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		fields := strings.Fields(line)
		switch fields[0] {
		case "nameserver":
			if len(fields) > 1 {
				dns.Servers = append(dns.Servers, fields[1])
			}
		case "search":
			dns.Searches = nil
			for _, search := range fields[1:] {
				if search != "." {
					search = strings.TrimSuffix(search, ".")
				}
				dns.Searches = append(dns.Searches, search)
			}
		case "options":
			for _, option := range fields[1:] {
				if !slices.Contains(dns.Options, option) {
					dns.Options = append(dns.Options, option)
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return runtimeiface.DNS{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	if limited.N == 0 {
		return runtimeiface.DNS{}, ErrTooLarge
	}
	return dns, nil
}
