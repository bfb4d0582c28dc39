package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The chains of the table:
//
//	table inet nodekit-host {
//		chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump host-ports }
//		chain output      { type nat hook output priority dstnat; fib daddr type local jump host-ports }
//		chain postrouting { type nat hook postrouting priority srcnat; jump hairpin; jump egress }
//		chain host-ports  { ip daddr 127.0.0.0/8 return
//			meta nfproto ipv4 meta l4proto tcp th dport 8080 dnat ip to 10.244.0.5:80 }
//		chain hairpin     { ct status dnat ip saddr 10.244.0.5 ip daddr 10.244.0.5 masquerade }
//		chain egress      { ip daddr 10.0.0.0/8 return; ip saddr 10.244.0.0/24 masquerade fully-random }
//		chain is-6f0c2a41d58e {}
//	}
//
// The name of the last one tells what Want the rules were made of, also to a
// later process.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainHostPorts   = "host-ports"
	chainHairpin     = "hairpin"
	chainEgress      = "egress"
	markPrefix       = "is-"
)

var chainNames = []string{chainPrerouting, chainOutput, chainPostrouting, chainHostPorts, chainHairpin, chainEgress}

// tableState is what the kernel has of our table.
type tableState struct {
	present bool
	rules   map[string]int // of each chain
	others  bool           // there is a chain or set that is not ours
	marks   []*nftables.Chain
}

// whole says that all chains are there and nothing else.
func (s *tableState) whole() bool {
	if !s.present || s.others {
		return false
	}
	for _, name := range chainNames {
		if _, there := s.rules[name]; !there {
			return false
		}
	}
	return true
}

// as says that the table has the rules that were made of a Want.
func (s *tableState) as(mark string, rules *ruleSet) bool {
	if !s.whole() || len(s.marks) != 1 || s.marks[0].Name != mark {
		return false
	}
	for _, name := range chainNames {
		if s.rules[name] != len(rules.chains[name]) {
			return false
		}
	}
	return true
}

func (h *Host) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(h.netNS.Fd())))
}

func (h *Host) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: h.config.Table}
}

func (h *Host) readTable() (*tableState, error) {
	conn, err := h.conn()
	if err != nil {
		return nil, err
	}
	state := &tableState{rules: map[string]int{}}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	own := make(map[string]bool, len(chainNames))
	for _, name := range chainNames {
		own[name] = true
	}
	for _, c := range chains {
		if c.Table.Name != h.config.Table {
			continue
		}
		state.present = true
		switch {
		case own[c.Name]:
			rules, err := conn.GetRules(h.table(), c)
			if err != nil {
				return nil, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
			}
			state.rules[c.Name] = len(rules)
			state.others = state.others || !hookedAsOurs(c)
		case strings.HasPrefix(c.Name, markPrefix):
			state.marks = append(state.marks, c)
		default:
			state.others = true
		}
	}
	if !state.present {
		return state, nil
	}
	sets, err := conn.GetSets(h.table())
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	state.others = state.others || len(sets) > 0
	return state, nil
}

// hookedAsOurs says that a chain stands where we put it.
func hookedAsOurs(c *nftables.Chain) bool {
	for _, b := range baseChains {
		if b.name == c.Name {
			return c.Hooknum != nil && *c.Hooknum == *b.hook && c.Priority != nil && *c.Priority == *b.priority &&
				(c.Policy == nil || *c.Policy == nftables.ChainPolicyAccept)
		}
	}
	return c.Hooknum == nil
}

var baseChains = []struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
}{
	{chainPrerouting, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest},
	{chainOutput, nftables.ChainHookOutput, nftables.ChainPriorityNATDest},
	{chainPostrouting, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource},
}

// syncRules tells whether it had to write.
func (h *Host) syncRules(want Want) (bool, error) {
	if len(want.Pods)+len(want.HostPorts) == 0 {
		state, err := h.readTable()
		if err != nil || !state.present {
			return false, err
		}
		return true, h.deleteTable()
	}
	rules, mark := newRuleSet(want), markOf(want)
	for attempt := 0; ; attempt++ {
		state, err := h.readTable()
		switch {
		case err == nil && state.as(mark, rules):
			return false, nil
		case err == nil:
			if err = h.writeTable(state, rules, mark); err == nil {
				return true, nil
			}
		}
		// Another program may have changed the table meanwhile.
		if attempt == 5 || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("table inet %s: %w", h.config.Table, err)
		}
	}
}

// markOf names what the rules are made of. Routes are no part of the table.
func markOf(want Want) string {
	want.Routes = nil
	text, _ := json.Marshal(want) // its types always can be written
	sum := sha256.Sum256(text)
	return markPrefix + hex.EncodeToString(sum[:8])
}

// writeTable writes all rules in one transaction. Chains that are as they should
// be stay hooked: no packet finds none.
func (h *Host) writeTable(state *tableState, rules *ruleSet, mark string) error {
	conn, err := h.conn()
	if err != nil {
		return err
	}
	table := h.table()
	if state.whole() {
		conn.FlushTable(table)
		for _, old := range state.marks {
			conn.DelChain(old)
		}
	} else {
		conn.AddTable(table) // else there might be none to delete
		conn.DelTable(table)
		conn.AddTable(table)
		for _, b := range baseChains {
			conn.AddChain(&nftables.Chain{Table: table, Name: b.name, Type: nftables.ChainTypeNAT, Hooknum: b.hook, Priority: b.priority})
		}
		for _, name := range []string{chainHostPorts, chainHairpin, chainEgress} {
			conn.AddChain(&nftables.Chain{Table: table, Name: name})
		}
	}
	for _, name := range chainNames {
		for _, exprs := range rules.chains[name] {
			conn.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: name}, Exprs: exprs})
		}
	}
	conn.AddChain(&nftables.Chain{Table: table, Name: mark})
	return conn.Flush()
}

func (h *Host) deleteTable() error {
	state, err := h.readTable()
	if err != nil {
		return err
	}
	conn, err := h.conn()
	if err != nil {
		return err
	}
	if !state.present {
		// It may be there without a chain.
		conn.AddTable(h.table())
	}
	conn.DelTable(h.table())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove table inet %s: %w", h.config.Table, err)
	}
	return nil
}
