package nftables

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/go-logr/logr"

	"github.com/nodekit/nodekit/proxyrules/internal/kernel"
)

// DefaultMark is bit 14, as kube-proxy's.
const DefaultMark = 0x4000

// Config says which table a Dialect keeps, and where.
type Config struct {
	// Table is the name of the tables, one for each address family: required,
	// at most 64 letters, digits, '-' and '_', the first a letter. Nobody else
	// may use it.
	Table string
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
	if !kernel.ValidTable(c.Table) {
		errs = append(errs, fmt.Errorf("field Table: %.70q is not a name of 1 to 64 letters, digits, '-' and '_' that starts with a letter", c.Table))
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
		return fmt.Errorf("nftables config: %w", errors.Join(errs...))
	}
	return nil
}
