package iptables

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/go-logr/logr"
)

// DefaultMark is bit 14, as kube-proxy's.
const DefaultMark = 0x4000

// Variant names which tools of iptables are run.
type Variant string

// The variants.
const (
	Any    Variant = ""       // those that the system has as iptables
	Legacy Variant = "legacy" // iptables-legacy: kernels without nf_tables
	NFT    Variant = "nft"    // iptables-nft: the same rules in nf_tables
)

// Config says which chains a Dialect keeps, and where.
type Config struct {
	// Prefix is how the names of our chains begin, followed by '-': required, 1
	// to 8 capital letters and digits, the first a letter. Nobody else may use it.
	Prefix string
	// Variant is which tools are run.
	Variant Variant
	// NetNS is a descriptor of the network namespace; it may be closed after
	// Open. 0: the namespace of the calling thread.
	NetNS int
	// MasqueradeMark is the one bit of the packet mark that says "leaves with
	// the node's address". 0: DefaultMark.
	MasqueradeMark uint32
	// KeepUDPFlows leaves conntrack alone. The zero value: UDP flows to
	// endpoints that left are forgotten.
	KeepUDPFlows bool
	// Logger's zero value discards.
	Logger logr.Logger
}

func (c *Config) check() error {
	var errs []error
	if !validPrefix(c.Prefix) {
		errs = append(errs, fmt.Errorf("field Prefix: %.20q is not 1 to 8 capital letters and digits that start with a letter", c.Prefix))
	}
	if c.Variant != Any && c.Variant != Legacy && c.Variant != NFT {
		errs = append(errs, fmt.Errorf("field Variant: %.20q is not legacy or nft", c.Variant))
	}
	if c.MasqueradeMark == 0 {
		c.MasqueradeMark = DefaultMark
	}
	if bits.OnesCount32(c.MasqueradeMark) != 1 {
		errs = append(errs, fmt.Errorf("field MasqueradeMark: 0x%x is not one bit", c.MasqueradeMark))
	}
	if c.NetNS < 0 {
		errs = append(errs, fmt.Errorf("field NetNS: %d is not a descriptor", c.NetNS))
	}
	if len(errs) > 0 {
		return fmt.Errorf("iptables config: %w", errors.Join(errs...))
	}
	return nil
}

func validPrefix(prefix string) bool {
	for i, r := range prefix {
		if (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return len(prefix) >= 1 && len(prefix) <= 8
}
