package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/nodekit/nodekit/proxyrules"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// full reads what the kernel holds and repairs it in one transaction, however
// it came to be.
func (d *Dialect) full(ctx context.Context, table *proxyrules.Table, stats *proxyrules.SyncStats) error {
	snapshot := d.loaded
	d.loaded = nil
	var refused error
	for range 20 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if snapshot == nil {
			var err error
			if snapshot, err = d.read(); err != nil {
				return err
			}
		}
		elements, err := d.repair(snapshot, table)
		if err == nil {
			stats.Full, stats.Elements = true, elements
			d.applied, d.begun = table, true
			// Flows of fronts that went while nobody looked, too.
			var changes proxyrules.Changes
			for f := range table.Fronts() {
				if f.Protocol == corev1.ProtocolUDP {
					changes.Fronts = append(changes.Fronts, proxyrules.FrontChange{New: f})
				}
			}
			for f := range snapshot.table().Fronts() {
				if f.Protocol == corev1.ProtocolUDP && table.Front(f.FrontKey) == nil {
					changes.Fronts = append(changes.Fronts, proxyrules.FrontChange{Old: f})
				}
			}
			d.forgetFlows(&changes, stats)
			return nil
		}
		if errors.Is(err, errChanged) {
			snapshot = nil
			continue
		}
		if refused != nil {
			return lacking(err)
		}
		// What is there cannot be repaired: make it anew, in one transaction
		// too.
		refused = err
		for i := range snapshot.families {
			snapshot.families[i].strange = true
		}
	}
	return fmt.Errorf("sync table %s: %w", d.config.Table, errChanged)
}

// lacking says of a table that was made anew and refused that the kernel does
// not know what is in it: there is nothing else that could be missing.
func lacking(err error) error {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w by this kernel as it is needed: %w", ErrNotSupported, err)
		}
	}
	return err
}

func (d *Dialect) repair(s *snapshot, table *proxyrules.Table) (elements int, err error) {
	if err := d.prepareSources(s, table); err != nil {
		return 0, err
	}
	b := newBatch(d.config.Table, s.generation)
	asLeft := d.rules[0] != nil
	for i, f := range families {
		d.state[i] = newFamilyState()
		if !s.families[i].present && !wanted(f, table) {
			continue
		}
		p := d.repairFamily(b, f, &s.families[i], d.sets[i], d.state[i], table)
		if p.err != nil {
			return 0, p.err
		}
		elements += p.elements
		asLeft = asLeft && s.families[i].asLeft(d.rules[i])
	}
	if asLeft && elements == 0 && d.node.Equal(table.Node) {
		// Another table was changed, not ours.
		d.generation = s.generation
		return 0, nil
	}
	b.close()
	if err := d.commit(b); err != nil {
		return 0, err
	}
	d.advance(s.generation)
	d.remember(table.Node)
	return elements, nil
}

// prepareSources does what prepare does, for tables that are adopted.
func (d *Dialect) prepareSources(s *snapshot, table *proxyrules.Table) error {
	b := newBatch(d.config.Table, s.generation)
	for front := range table.Fronts() {
		if len(front.Sources) == 0 {
			continue
		}
		i := 1
		if front.Addr.Is4() {
			i = 0
		}
		name := sourcesName(front.Sources)
		if there := &s.families[i]; !there.present || there.strange || there.chains[name] {
			continue
		}
		s.families[i].chains[name] = true
		b.sources(&plan{family: families[i], madeSources: [][]netip.Prefix{front.Sources}})
	}
	if b.empty() {
		return nil
	}
	b.close()
	if err := d.commit(b); err != nil {
		return err
	}
	d.advance(s.generation)
	s.generation = d.generation
	return nil
}

func (s *familySnapshot) asLeft(rules map[string]string) bool {
	for _, there := range s.sets {
		if !there {
			return false
		}
	}
	return s.present && !s.strange && maps.Equal(s.rules, rules)
}

// remember notes how the kernel tells our rules. They need not be known: then
// the next full sync writes them again.
func (d *Dialect) remember(node proxyrules.Node) {
	d.node = node
	var rules [len(families)]map[string]string
	for i, f := range families {
		var err error
		if rules[i], err = d.readRules(f); err != nil {
			d.rules[0] = nil
			return
		}
		if !d.state[i].present {
			continue
		}
		for _, c := range f.skeleton(node, d.config.MasqueradeMark) {
			rules[i][c.name] += ""
		}
		for b := range d.state[i].balancers {
			rules[i][b.name()] += ""
		}
		for name := range d.state[i].sources {
			rules[i][name] += ""
		}
	}
	d.rules = rules
	if generation, err := d.socket.generation(); err != nil || generation != d.generation {
		d.rules[0] = nil // perhaps not ours
	}
}

func (d *Dialect) repairFamily(b *batch, f *family, s *familySnapshot, sets *[setCount]*set, state *familyState,
	table *proxyrules.Table) *plan {
	node := table.Node
	state.present = true
	adopt := s.present && !s.strange
	if s.present && !adopt {
		b.delTable(f)
	}
	b.newTable(f)
	if adopt {
		b.flushRules(f)
	}
	skeleton := f.skeleton(node, d.config.MasqueradeMark)
	for id, spec := range sets {
		if adopt && s.unread[id] {
			b.delSet(f, spec) // cheaper than its elements one by one
		}
		if !adopt || !s.sets[id] || s.unread[id] {
			b.newSet(f, spec)
		}
	}
	for _, c := range skeleton {
		if !adopt || !s.chains[c.name] {
			b.newChain(f, c)
		}
	}
	for _, c := range skeleton {
		b.rules(f, c)
	}
	p := newPlan(f, d.config.MasqueradeMark, state)
	if adopt {
		var held [setCount]map[string]string
		for id := range held {
			held[id] = make(map[string]string, len(s.elements[id]))
			for key, v := range s.elements[id] {
				held[id][key] = v
			}
		}
		p.adopt(&held)
	} else {
		p.passed = s.elements[setHairpin]
	}
	for _, addr := range node.Addresses {
		if f.has(addr) {
			p.add(setNodePortIPs, appendAddr(nil, addr), value{})
		}
	}
	for front := range table.Fronts() {
		if f.has(front.Addr) {
			p.load(front)
		}
	}
	p.finish()
	b.apply(p, sets)
	if adopt {
		d.dropBalancers(b, f, s, p)
	}
	return p
}

// dropBalancers removes chains that no front uses any more.
func (d *Dialect) dropBalancers(b *batch, f *family, s *familySnapshot, p *plan) {
	used := make(map[string]bool)
	for balancer := range p.state.balancers {
		used[balancer.name()] = true
	}
	for name := range p.state.sources {
		used[name] = true
	}
	for name := range s.chains {
		if onDemand.MatchString(name) && !used[name] {
			b.delChain(f, name)
		}
	}
}
