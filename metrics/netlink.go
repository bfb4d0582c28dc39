package metrics

import (
	"encoding/binary"
	"syscall"
)

// The parsers of netlink messages; their bytes are in the machine's order.
var order = binary.NativeEndian

const (
	messageError = 2 // NLMSG_ERROR
	messageDone  = 3 // NLMSG_DONE

	statsLink64    = 1  // IFLA_STATS_LINK_64
	linkInfo       = 18 // IFLA_LINKINFO
	linkInfoKind   = 1  // IFLA_INFO_KIND
	linkNamespace  = 37 // IFLA_LINK_NETNSID
	attributeFlags = 0x3fff
)

// linkStats are the counters of one link.
type linkStats struct {
	index                                  uint32
	rxBytes, rxPackets, txBytes, txPackets uint64
}

// peer is a veth here whose other end is in another namespace.
type peer struct {
	index     uint32
	namespace int32 // as this namespace numbers it
}

// eachMessage calls take with the body of each message that answers seq.
//
//	nlmsg_len u32, nlmsg_type u16, nlmsg_flags u16, nlmsg_seq u32, nlmsg_pid u32, body, padding to 4
func eachMessage(b []byte, seq uint32, take func(body []byte) error) (done bool, err error) {
	const head = 16
	for len(b) > 0 {
		if len(b) < head {
			return false, ErrGarbled
		}
		n := uint64(order.Uint32(b))
		if n < head || n > uint64(len(b)) {
			return false, ErrGarbled
		}
		body := b[head:n]
		kind, of := order.Uint16(b[4:]), order.Uint32(b[8:])
		b = b[min(uint64(len(b)), (n+3)&^3):]
		switch {
		case of != seq: // of a request that was given up
		case kind == messageDone:
			return true, nil
		case kind == messageError:
			if len(body) < 4 {
				return false, ErrGarbled
			}
			if code := int32(order.Uint32(body)); code != 0 {
				return false, syscall.Errno(-code)
			}
			return true, nil
		default:
			if err := take(body); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// attributes calls f with each attribute behind the head of a body.
//
//	nla_len u16, nla_type u16, value, padding to 4
func attributes(b []byte, head int, f func(kind uint16, value []byte) error) error {
	if len(b) < head {
		return ErrGarbled
	}
	for b = b[head:]; len(b) > 0; {
		if len(b) < 4 {
			return ErrGarbled
		}
		n := int(order.Uint16(b))
		if n < 4 || n > len(b) {
			return ErrGarbled
		}
		if err := f(order.Uint16(b[2:])&attributeFlags, b[4:n]); err != nil {
			return err
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// parseLinkStats reads an RTM_NEWSTATS: struct if_stats_msg (family u8, pad,
// ifindex u32 at 4, filter_mask u32) and struct rtnl_link_stats64, which begins
// with rx_packets, tx_packets, rx_bytes, tx_bytes.
func parseLinkStats(body []byte) (one linkStats, ok bool, err error) {
	err = attributes(body, 12, func(kind uint16, v []byte) error {
		if kind != statsLink64 {
			return nil
		}
		if len(v) < 4*8 {
			return ErrGarbled
		}
		one = linkStats{index: order.Uint32(body[4:]), rxPackets: order.Uint64(v), txPackets: order.Uint64(v[8:]),
			rxBytes: order.Uint64(v[16:]), txBytes: order.Uint64(v[24:])}
		ok = true
		return nil
	})
	return one, ok, err
}

// parseVeth reads an RTM_NEWLINK: struct ifinfomsg (ifi_index s32 at 4). ok is
// false for what is no veth into another namespace.
func parseVeth(body []byte) (one peer, ok bool, err error) {
	veth, elsewhere := false, false
	err = attributes(body, 16, func(kind uint16, v []byte) error {
		switch kind {
		case linkNamespace:
			if len(v) != 4 {
				return ErrGarbled
			}
			one.namespace, elsewhere = int32(order.Uint32(v)), true
		case linkInfo:
			return attributes(v, 0, func(kind uint16, v []byte) error {
				veth = veth || kind == linkInfoKind && string(v) == "veth\x00"
				return nil
			})
		}
		return nil
	})
	if err == nil && veth && elsewhere {
		one.index = order.Uint32(body[4:])
		return one, one.namespace >= 0, nil
	}
	return one, false, err
}
