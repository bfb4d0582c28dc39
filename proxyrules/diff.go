package proxyrules

import "net/netip"

// Changes is what turns one table into another, element by element.
type Changes struct {
	// Node says that the node's facts differ, and with them the rules that
	// stand beside the fronts.
	Node bool `json:"node,omitempty"`
	// Fronts are sorted by key.
	Fronts []FrontChange `json:"fronts,omitempty"`
}

// FrontChange is one front that appears (Old is nil), goes (New is nil) or
// does something else than before.
type FrontChange struct {
	Old   *Front       `json:"old,omitempty"`
	New   *Front       `json:"new,omitempty"`
	Slots []SlotChange `json:"slots,omitempty"` // of Endpoints, by index
	// Inside are changes of the list of that name, by index.
	Inside []SlotChange `json:"inside,omitempty"`
}

// SlotChange is another endpoint at one index, or one that is on another node
// than before. An invalid AddrPort means none.
type SlotChange struct {
	Index int            `json:"index"`
	Old   netip.AddrPort `json:"old"`
	New   netip.AddrPort `json:"new"`
}

// Key is the key of the front that changes.
func (c *FrontChange) Key() FrontKey {
	if c.New != nil {
		return c.New.FrontKey
	}
	return c.Old.FrontKey
}

// Empty says that both tables give the same rules.
func (c *Changes) Empty() bool { return !c.Node && len(c.Fronts) == 0 }

// Len counts the elements that change: fronts, and endpoints in them.
func (c *Changes) Len() int {
	n := len(c.Fronts)
	for i := range c.Fronts {
		n += len(c.Fronts[i].Slots) + len(c.Fronts[i].Inside)
	}
	return n
}

// Diff compares what two tables do; names alone are no difference. A nil table
// is an empty one. Where one was built upon the other, it costs what differs.
func Diff(old, new *Table) Changes {
	var changes Changes
	if old != nil && new != nil {
		var keys []FrontKey
		switch {
		case old == new:
			return changes
		case old.self != nil && old.self == new.base:
			keys = new.changed
		case new.self != nil && new.self == old.base:
			keys = old.changed
		}
		if keys != nil {
			for _, key := range keys {
				changes.compare(old.Front(key), new.Front(key))
			}
			return changes
		}
		changes.Node = !old.Node.Equal(new.Node)
	} else {
		changes.Node = old != new
	}
	var a, b []*Front
	if old != nil {
		a = old.fronts.items()
	}
	if new != nil {
		b = new.fronts.items()
	}
	if len(a) == 0 || len(b) == 0 {
		changes.Fronts = make([]FrontChange, 0, max(len(a), len(b)))
	}
	for len(a) > 0 || len(b) > 0 {
		if len(a) > 0 && len(b) > 0 && a[0] == b[0] {
			a, b = a[1:], b[1:]
			continue
		}
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = a[0].Compare(b[0].FrontKey)
		}
		switch {
		case order < 0:
			changes.add(a[0], nil)
			a = a[1:]
		case order > 0:
			changes.add(nil, b[0])
			b = b[1:]
		default:
			changes.compare(a[0], b[0])
			a, b = a[1:], b[1:]
		}
	}
	return changes
}

// compare adds the change from one front to another of the same key.
func (c *Changes) compare(old, new *Front) {
	if old != nil && new != nil && (old == new || old.sameRules(new)) {
		return
	}
	c.add(old, new)
}

func (c *Changes) add(old, new *Front) {
	change := FrontChange{Old: old, New: new}
	var none Front
	if old == nil {
		old = &none
	}
	if new == nil {
		new = &none
	}
	change.Slots = diffSlots(old.Endpoints, new.Endpoints)
	change.Inside = diffSlots(old.Inside, new.Inside)
	c.Fronts = append(c.Fronts, change)
}

func diffSlots(a, b []Endpoint) []SlotChange {
	var out []SlotChange
	if len(a) == 0 || len(b) == 0 {
		out = make([]SlotChange, 0, max(len(a), len(b)))
	}
	for i := 0; i < len(a) || i < len(b); i++ {
		change := SlotChange{Index: i}
		if i < len(a) {
			change.Old = a[i].Addr
		}
		if i < len(b) {
			change.New = b[i].Addr
		}
		if change.Old != change.New || a[i].Remote != b[i].Remote {
			out = append(out, change)
		}
	}
	return out
}
