package oci

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
)

// DefaultCNIBinDir is where CNI plug-ins are looked for by default.
const DefaultCNIBinDir = "/opt/cni/bin"

// Network is the pods' network: a bridge that is built in, or CNI plug-ins.
type Network struct {
	// Bridge is the interface's name. "" is DefaultBridge.
	Bridge string
	// Subnets give the pods' addresses: one subnet of IPv4, one of IPv6, or one
	// of each; then a pod has an address of both, and that of the first subnet
	// is its primary one. The bridge has the first address of each. IPv4 of /30
	// or wider, IPv6 of /126 or wider. nil is DefaultSubnet. Where the kernel
	// has no IPv6, Open refuses a subnet of it with ErrNotSupported.
	Subnets []netip.Prefix
	// MTU of bridge and pods, 1280 or more with IPv6. 0 is 1500.
	MTU int
	// CNI has the pods' network made by plug-ins. Zero does not.
	CNI CNI
	// NetNSPath is the network namespace that counts as the node's: where the
	// bridge is, where plug-ins run and where pods with NamespaceHost run. "" is
	// that of the thread that calls Open.
	NetNSPath string
}

// CNI says which plug-ins make the pods' network, by version 1.1.0 of the
// Container Network Interface and those before it.
type CNI struct {
	// ConfDir has the configurations, such as /etc/cni/net.d. The first by name
	// of *.conflist, *.conf and *.json is used. It is looked up for each
	// sandbox: while there is none, sandboxes get the built-in bridge network.
	// A first one that cannot be read is an error of RunSandbox, not a reason to
	// take another. "" uses no plug-ins.
	ConfDir string
	// BinDirs have the plug-ins, the first that has one wins. nil is
	// DefaultCNIBinDir.
	BinDirs []string
	// CacheDir is where the results of plug-ins are kept, and nobody else's. ""
	// is Root/cni.
	CacheDir string
}

var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

// withDefaults tells bad fields to bad.
func (n Network) withDefaults(root string, bad func(format string, args ...any)) Network {
	n.Bridge = cmp.Or(n.Bridge, DefaultBridge)
	// As file names below /proc/sys they would lead elsewhere, or to all of them.
	if !interfaceName.MatchString(n.Bridge) || slices.Contains([]string{".", "..", "all", "default"}, n.Bridge) {
		bad("Network.Bridge %q is no name of an interface", n.Bridge)
	}
	n.Subnets = slices.Clone(n.Subnets)
	if len(n.Subnets) == 0 {
		n.Subnets = []netip.Prefix{netip.MustParsePrefix(DefaultSubnet)}
	}
	families := map[bool]int{}
	for i, p := range n.Subnets {
		n.Subnets[i] = p.Masked()
		switch addr := p.Addr(); {
		case !p.IsValid() || addr.Is4In6() || addr.IsMulticast() || addr.IsLoopback() || addr.IsLinkLocalUnicast():
			bad("Network.Subnets[%d] %v is no subnet for pods", i, p)
		case addr.Is4() && p.Bits() > 30:
			bad("Network.Subnets[%d] %v is not an IPv4 subnet of /30 or wider", i, p)
		case addr.Is6() && p.Bits() > 126:
			bad("Network.Subnets[%d] %v is not an IPv6 subnet of /126 or wider", i, p)
		default:
			if families[addr.Is6()]++; families[addr.Is6()] == 2 {
				bad("Network.Subnets[%d] %v is of the same family as another", i, p)
			}
		}
	}
	n.MTU = cmp.Or(n.MTU, 1500)
	least := 576
	if families[true] > 0 {
		least = 1280 // RFC 8200 section 5
	}
	if n.MTU < least || n.MTU > 65535 {
		bad("Network.MTU %d is not within %d and 65535", n.MTU, least)
	}
	n.CNI = n.CNI.withDefaults(root, bad)
	return n
}

func (c CNI) withDefaults(root string, bad func(format string, args ...any)) CNI {
	c.BinDirs = slices.Clone(c.BinDirs)
	if len(c.BinDirs) == 0 {
		c.BinDirs = []string{DefaultCNIBinDir}
	}
	if c.ConfDir != "" && !filepath.IsAbs(c.ConfDir) {
		bad("Network.CNI.ConfDir %q is not an absolute path", c.ConfDir)
	}
	if c.CacheDir != "" && !filepath.IsAbs(c.CacheDir) {
		bad("Network.CNI.CacheDir %q is not an absolute path", c.CacheDir)
	}
	c.CacheDir = cmp.Or(c.CacheDir, filepath.Join(root, "cni"))
	for i, dir := range c.BinDirs {
		if !filepath.IsAbs(dir) {
			bad("Network.CNI.BinDirs[%d] %q is not an absolute path", i, dir)
		}
	}
	return c
}

// fieldOf names a subnet in texts.
func fieldOf(i int, p netip.Prefix) string { return fmt.Sprintf("Network.Subnets[%d] %v", i, p) }
