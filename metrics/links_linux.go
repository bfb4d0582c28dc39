package metrics

import (
	"slices"

	"golang.org/x/sys/unix"
)

// links reads the traffic of all veths of this network namespace at once: what
// the host's end has sent, the pod's has received. The zero value has no
// socket; open makes it.
type links struct {
	socket int // 0 for none
	seq    uint32
	buf    []byte
	ask    []byte
	stats  []linkStats // of the last dump, by index
	peers  []peer      // veths of the last list
	listed bool        // in this round
}

func (l *links) open() error {
	if l.socket != 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	// The kernel answers at once; a round must not hang if it ever does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		_ = unix.Close(fd)
		return err
	}
	l.socket = fd
	if l.buf == nil {
		l.buf, l.ask = make([]byte, 64<<10), make([]byte, 0, 64)
	}
	return nil
}

func (l *links) close() {
	if l.socket != 0 {
		_ = unix.Close(l.socket)
		l.socket = 0
	}
	l.stats, l.listed = l.stats[:0], false
}

// dump reads the counters of all links: RTM_GETSTATS with IFLA_STATS_LINK_64
// (rtnetlink(7), include/uapi/linux/if_link.h of Linux 6.18).
func (l *links) dump() error {
	l.stats, l.listed = l.stats[:0], false
	if err := l.open(); err != nil {
		return err
	}
	l.begin(unix.RTM_GETSTATS, unix.NLM_F_DUMP)
	l.ask = append(l.ask, 0, 0, 0, 0)       // family
	l.ask = order.AppendUint32(l.ask, 0)    // all links
	l.ask = order.AppendUint32(l.ask, 1<<0) // IFLA_STATS_LINK_64
	if err := l.exchange(true, (*links).takeStats); err != nil {
		l.stats = l.stats[:0]
		return err
	}
	slices.SortFunc(l.stats, func(a, b linkStats) int { return int(a.index) - int(b.index) })
	return nil
}

// of returns the counters of a link in the last dump.
func (l *links) of(index uint32) (linkStats, bool) {
	low, high := 0, len(l.stats)
	for low < high {
		if mid := (low + high) / 2; l.stats[mid].index < index {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < len(l.stats) && l.stats[low].index == index {
		return l.stats[low], true
	}
	return linkStats{}, false
}

// to finds the one veth that leads to the namespace of an open file; 0 if there
// is none, or more than one.
func (l *links) to(namespace int32) (uint32, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	if !l.listed {
		l.peers = l.peers[:0]
		l.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		l.ask = append(l.ask, make([]byte, unix.SizeofIfInfomsg)...)
		if err := l.exchange(true, (*links).takeLink); err != nil {
			return 0, err
		}
		l.listed = true
	}
	l.begin(unix.RTM_GETNSID, 0)
	l.ask = append(l.ask, 0, 0, 0, 0) // family
	l.ask = order.AppendUint16(l.ask, 8)
	l.ask = order.AppendUint16(l.ask, unix.NETNSA_FD)
	l.ask = order.AppendUint32(l.ask, uint32(namespace))
	id := int32(-1)
	if err := l.exchange(false, func(_ *links, b []byte) error {
		return attributes(b, 4, func(kind uint16, v []byte) error {
			if kind == unix.NETNSA_NSID && len(v) == 4 {
				id = int32(order.Uint32(v))
			}
			return nil
		})
	}); err != nil || id < 0 {
		return 0, err
	}
	found := uint32(0)
	for _, p := range l.peers {
		if p.namespace != id {
			continue
		}
		if found != 0 {
			return 0, nil
		}
		found = p.index
	}
	return found, nil
}

// begin writes the head of a request into ask.
func (l *links) begin(kind, flags uint16) {
	l.seq++
	l.ask = order.AppendUint32(l.ask[:0], 0) // the length, later
	l.ask = order.AppendUint16(l.ask, kind)
	l.ask = order.AppendUint16(l.ask, unix.NLM_F_REQUEST|flags)
	l.ask = order.AppendUint32(l.ask, l.seq)
	l.ask = order.AppendUint32(l.ask, 0)
}

// exchange sends ask and takes the answers, to the last of a dump.
func (l *links) exchange(dump bool, take func(l *links, body []byte) error) error {
	order.PutUint32(l.ask, uint32(len(l.ask)))
	if _, err := unix.Write(l.socket, l.ask); err != nil {
		return err
	}
	for {
		n, err := unix.Read(l.socket, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			l.close() // what is left in it would be taken for the next answer
			return err
		}
		done, err := eachMessage(l.buf[:n], l.seq, func(body []byte) error { return take(l, body) })
		if err != nil {
			l.close()
			return err
		}
		if done || !dump {
			return nil
		}
	}
}

func (l *links) takeStats(body []byte) error {
	one, ok, err := parseLinkStats(body)
	if ok {
		l.stats = append(l.stats, one)
	}
	return err
}

func (l *links) takeLink(body []byte) error {
	one, ok, err := parseVeth(body)
	if ok {
		l.peers = append(l.peers, one)
	}
	return err
}
