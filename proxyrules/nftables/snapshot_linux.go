package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nodekit/nodekit/proxyrules"
	"golang.org/x/sys/unix"
)

// snapshot is what the kernel holds of our table, read at one generation.
type snapshot struct {
	generation uint32
	families   [len(families)]familySnapshot
}

type familySnapshot struct {
	present bool
	// strange says that something is not as we make it, other than rules and
	// elements: the table has to be made anew.
	strange  bool
	sets     [setCount]bool // there, as we make them
	chains   map[string]bool
	rules    map[string]string // by chain, as the kernel tells them
	elements [setCount]map[string]string
	count    [setCount]uint32 // elements, as far as the kernel tells (6.16)
	unread   [setCount]bool   // elements were left unread, as there are many
}

// readable is how many elements of a set are read when an agent begins. The
// kernel walks from the start of a set for each piece that it tells, so that
// writing all anew takes less time than reading many.
const readable = 20_000

// rewritable says that nothing is lost with the elements that are there: they
// say neither which token a client may hold, nor which UDP flows there may be, and
// do not forbid anything.
func (id setID) rewritable() bool {
	if id < setEndpoints {
		return id != setSourceRanges
	}
	return id < setPicks && protocols[int(id-setEndpoints)%len(protocols)].lower != "udp"
}

// read takes a snapshot; it tries again while the rules change under it.
func (d *Dialect) read() (*snapshot, error) {
	for attempt := 0; ; attempt++ {
		s, err := d.readOnce()
		if err == nil || attempt == 10 || !errors.Is(err, errInterrupted) && !errors.Is(err, unix.ENOENT) {
			return s, err
		}
	}
}

func (d *Dialect) readOnce() (*snapshot, error) {
	d.watch.reading()
	generation, err := d.socket.generation()
	if err != nil {
		return nil, err
	}
	s := &snapshot{generation: generation}
	for i, f := range families {
		if err := d.readFamily(f, &s.families[i], d.sets[i]); err != nil {
			return nil, fmt.Errorf("read table %s %s: %w", f.name, d.config.Table, err)
		}
	}
	return s, nil
}

// readTable tells whether the table is there.
func (d *Dialect) readTable(f *family, s *familySnapshot) error {
	return d.socket.request(msgGetTable, flagDump, f.number, nil, func(m message) error {
		var name string
		var flags uint32
		err := attributes(m.data, func(kind uint16, data []byte) error {
			switch kind {
			case 1:
				name = readText(data)
			case 2:
				flags = readU32(data)
			}
			return nil
		})
		if name == d.config.Table {
			s.present, s.strange = true, flags != 0
		}
		return err
	})
}

func (d *Dialect) readFamily(f *family, s *familySnapshot, sets *[setCount]*set) error {
	err := d.readTable(f, s)
	if err != nil || !s.present {
		return err
	}
	if err := d.readChains(f, s); err != nil {
		return err
	}
	if s.rules, err = d.readRules(f); err != nil {
		return err
	}
	for name := range s.chains {
		s.rules[name] += "" // those without rules too
	}
	if err := d.readSets(f, s, sets); err != nil {
		return err
	}
	for id := range sets {
		if !s.sets[id] || s.strange && id != int(setHairpin) || setID(id).learned() {
			continue
		}
		if !d.begun && setID(id).rewritable() && s.count[id] > d.readable {
			s.unread[id] = true
			continue
		}
		s.elements[id] = make(map[string]string)
		if err := d.readElements(f, sets[id], s.elements[id]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dialect) readChains(f *family, s *familySnapshot) error {
	known := make(map[string]*chain)
	for _, c := range f.skeleton(proxyrules.Node{}, d.config.MasqueradeMark) {
		known[c.name] = c
	}
	s.chains = make(map[string]bool)
	return d.socket.request(msgGetChain, flagDump, f.number, nil, func(m message) error {
		var table, name, kind string
		var policy uint32
		var base hook
		hooked := false
		err := attributes(m.data, func(attr uint16, data []byte) error {
			switch attr {
			case 1:
				table = readText(data)
			case 3:
				name = readText(data)
			case 4:
				hooked = true
				return attributes(data, func(attr uint16, data []byte) error {
					switch attr {
					case 1:
						base.number = readU32(data)
					case 2:
						base.priority = int32(readU32(data))
					}
					return nil
				})
			case 5:
				policy = readU32(data)
			case 7:
				kind = readText(data)
			}
			return nil
		})
		if err != nil || table != d.config.Table {
			return err
		}
		s.chains[name] = true
		c := known[name]
		switch {
		case c == nil:
			s.strange = s.strange || hooked || !onDemand.MatchString(name)
		case c.hook == nil:
			s.strange = s.strange || hooked
		default:
			s.strange = s.strange || !hooked || policy != 1 || kind != c.hook.kind ||
				base.number != c.hook.number || base.priority != c.hook.priority
		}
		return nil
	})
}

// readRules gives the expressions of all rules of a table, by chain.
func (d *Dialect) readRules(f *family) (map[string]string, error) {
	rules := make(map[string]string)
	err := d.socket.request(msgGetRule, flagDump, f.number, nil, func(m message) error {
		var table, chain string
		var exprs []byte
		err := attributes(m.data, func(kind uint16, data []byte) error {
			switch kind {
			case 1:
				table = readText(data)
			case 2:
				chain = readText(data)
			case 4:
				exprs = data
			}
			return nil
		})
		if table == d.config.Table {
			rules[chain] += string(exprs)
		}
		return err
	})
	return rules, err
}

func (d *Dialect) readSets(f *family, s *familySnapshot, sets *[setCount]*set) error {
	ids := make(map[string]setID)
	for id, spec := range sets {
		ids[spec.name] = setID(id)
	}
	fill := func(w *buffer) { w.text(1, d.config.Table) }
	return d.socket.request(msgGetSet, flagDump, f.number, fill, func(m message) error {
		var got set
		var table string
		var flags, count uint32
		err := attributes(m.data, func(kind uint16, data []byte) error {
			switch kind {
			case 1:
				table = readText(data)
			case 2:
				got.name = readText(data)
			case 3:
				flags = readU32(data)
			case 4:
				got.keyType = readU32(data)
			case 5:
				got.keyLen = readU32(data)
			case 6:
				got.dataType = readU32(data)
			case 7:
				got.dataLen = readU32(data)
			case 20: // NFTA_SET_COUNT
				count = readU32(data)
			}
			return nil
		})
		if err != nil || table != d.config.Table {
			return err
		}
		id, ok := ids[got.name]
		if !ok {
			s.strange = true
			return nil
		}
		want := sets[id]
		s.sets[id] = flags == want.flags() && got.keyType == want.keyType && got.keyLen == want.keyLen &&
			got.dataType == want.dataType && got.dataLen == want.dataLen
		s.count[id], s.strange = count, s.strange || !s.sets[id]
		return nil
	})
}

func (d *Dialect) readElements(f *family, spec *set, into map[string]string) error {
	fill := func(w *buffer) {
		w.text(1, d.config.Table)
		w.text(2, spec.name)
	}
	return d.socket.request(msgGetElements, flagDump, f.number, fill, func(m message) error {
		return elementsOf(m.data, func(key string, v value) { into[key] = v.encode() })
	})
}

// elementsOf decodes the answer to a request for the elements of a set.
func elementsOf(b []byte, f func(key string, v value)) error {
	return attributes(b, func(kind uint16, data []byte) error {
		if kind != 3 {
			return nil
		}
		return attributes(data, func(_ uint16, elem []byte) error {
			var key []byte
			var v value
			err := attributes(elem, func(kind uint16, data []byte) error {
				switch kind {
				case 1:
					return attributes(data, func(_ uint16, data []byte) error { key = data; return nil })
				case 2:
					return v.decode(data)
				}
				return nil
			})
			if err == nil {
				f(string(key), v)
			}
			return err
		})
	})
}

func (v *value) decode(b []byte) error {
	return attributes(b, func(kind uint16, data []byte) error {
		if kind == 1 {
			v.data = data
			return nil
		}
		v.verdict = true
		return attributes(data, func(kind uint16, data []byte) error {
			switch kind {
			case 1:
				v.code = readU32(data)
			case 2:
				v.chain = readText(data)
			}
			return nil
		})
	})
}

// table makes fronts of the endpoints found, for their slots.
func (s *snapshot) table() *proxyrules.Table {
	found := make(map[proxyrules.FrontKey]*proxyrules.Front)
	for i, f := range families {
		for p := range protocols {
			for _, first := range []setID{setEndpoints, setNodePortEndpoints, setPicks, setNodePortPicks} {
				s.families[i].slots(f, found, first, p)
			}
		}
	}
	fronts := make([]*proxyrules.Front, 0, len(found))
	for _, front := range found {
		fronts = append(fronts, front)
	}
	return proxyrules.NewTable(proxyrules.Node{}, fronts)
}

func (s *familySnapshot) slots(f *family, found map[proxyrules.FrontKey]*proxyrules.Front, first setID, p int) {
	size := 4 * f.words
	for key, data := range s.elements[first+setID(p)] {
		k := proxyrules.FrontKey{Addr: f.unspecified, Protocol: protocols[p].name}
		kind := proxyrules.NodePort
		b := []byte(key)
		if first == setEndpoints || first == setPicks {
			kind = proxyrules.ClusterIP
			if len(b) < size {
				continue
			}
			k.Addr, _ = netip.AddrFromSlice(b[:size])
			b = b[size:]
		}
		if first >= setPicks {
			data = s.elements[setTokens+setID(p)][data]
		}
		if len(b) != 8 || len(data) != size+4 {
			continue
		}
		k.Port = binary.BigEndian.Uint16(b)
		slot := int(binary.NativeEndian.Uint32(b[4:]))
		if slot >= insideSlots+proxyrules.MaxEndpoints {
			continue
		}
		front := found[k]
		if front == nil {
			front = &proxyrules.Front{FrontKey: k, Kind: kind, Action: proxyrules.Balance}
			found[k] = front
		}
		list := &front.Endpoints
		if slot >= insideSlots {
			list = &front.Inside
			slot -= insideSlots
		}
		for len(*list) <= slot {
			*list = append(*list, proxyrules.Endpoint{})
		}
		addr, _ := netip.AddrFromSlice([]byte(data[:size]))
		(*list)[slot].Addr = netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(data[size:])))
	}
}
