package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernelAlone writes the elements that Services need by netlink, and nothing
// else: what no proxy on nf_tables can go below. All is encoded before the time
// is taken.
type kernelAlone struct {
	fd  int
	seq uint32
}

const (
	kernelTable     = "limit"
	kernelChain     = "to-endpoint"
	kernelGoto      = 0xfffffffc // NFT_GOTO
	kernelEndpoints = 2          // of kernelSets
	elementsEach    = 500        // of a message: an attribute holds 64 KB
	kernelAnswer    = 64 << 10
)

// kernelSets are those that hold the elements: a verdict by cluster IP, protocol
// and port, cluster IPs, and an endpoint by cluster IP, port and index. The types
// of keys and data are nft's numbers, which the kernel keeps and does not read.
var kernelSets = []struct {
	name                               string
	keyType, keyLen, dataType, dataLen uint32
}{
	{"services", 7<<12 | 12<<6 | 13, 12, 0xffffff00, 16},
	{"cluster-ips", 7, 4, 0, 0},
	{"endpoints", 7<<12 | 13<<6 | 4, 12, 7<<6 | 13, 8},
}

// kernelElement is one of a set; data is nil for none, and verdict stands in its place.
type kernelElement struct {
	key, data []byte
	verdict   bool
}

func openKernelAlone(w *proxyWorld) (*kernelAlone, error) {
	k := &kernelAlone{}
	err := w.node.Do(func() (err error) {
		k.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(k.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), unix.Bind(k.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	})
	return k, os.NewSyscallError("netlink socket", err)
}

func (k *kernelAlone) close() error { return unix.Close(k.fd) }

// message is one of nf_tables for IPv4; kind is NFT_MSG_*.
func (k *kernelAlone) message(kind uint16, flags netlink.HeaderFlags, fill func(a *netlink.AttributeEncoder)) ([]byte, error) {
	a := netlink.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	fill(a)
	attributes, err := a.Encode()
	if err != nil {
		return nil, err
	}
	return k.frame(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, unix.NFPROTO_IPV4, 0, attributes), nil
}

// frame puts nlmsghdr and nfgenmsg before attributes.
func (k *kernelAlone) frame(kind uint16, flags netlink.HeaderFlags, family byte, resource uint16, attributes []byte) []byte {
	k.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(20+len(attributes)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, uint16(flags|netlink.Request))
	b = binary.NativeEndian.AppendUint32(b, k.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint16(append(b, family, 0), resource)
	return append(b, attributes...)
}

// remove takes the table away.
func (k *kernelAlone) remove() ([]byte, error) {
	return k.message(unix.NFT_MSG_DELTABLE, 0, func(a *netlink.AttributeEncoder) { a.String(unix.NFTA_TABLE_NAME, kernelTable) })
}

// skeleton makes the table, a chain and the sets.
func (k *kernelAlone) skeleton() ([][]byte, error) {
	var out [][]byte
	var errs []error
	add := func(kind uint16, flags netlink.HeaderFlags, fill func(a *netlink.AttributeEncoder)) {
		m, err := k.message(kind, flags, fill)
		out, errs = append(out, m), append(errs, err)
	}
	add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(a *netlink.AttributeEncoder) { a.String(unix.NFTA_TABLE_NAME, kernelTable) })
	add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(a *netlink.AttributeEncoder) {
		a.String(unix.NFTA_CHAIN_TABLE, kernelTable)
		a.String(unix.NFTA_CHAIN_NAME, kernelChain)
	})
	for i, s := range kernelSets {
		add(unix.NFT_MSG_NEWSET, netlink.Create, func(a *netlink.AttributeEncoder) {
			a.String(unix.NFTA_SET_TABLE, kernelTable)
			a.String(unix.NFTA_SET_NAME, s.name)
			a.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType)
			a.Uint32(unix.NFTA_SET_KEY_LEN, s.keyLen)
			a.Uint32(unix.NFTA_SET_ID, uint32(i+1))
			if s.dataLen > 0 {
				a.Uint32(unix.NFTA_SET_FLAGS, unix.NFT_SET_MAP)
				a.Uint32(unix.NFTA_SET_DATA_TYPE, s.dataType)
				a.Uint32(unix.NFTA_SET_DATA_LEN, s.dataLen)
			}
		})
	}
	return out, errors.Join(errs...)
}

func (k *kernelAlone) elements(kind uint16, set int, list []kernelElement) ([][]byte, error) {
	flags := netlink.HeaderFlags(0)
	if kind == unix.NFT_MSG_NEWSETELEM {
		flags = netlink.Create
	}
	var out [][]byte
	for part := range slices.Chunk(list, elementsEach) {
		m, err := k.message(kind, flags, func(a *netlink.AttributeEncoder) {
			a.String(unix.NFTA_SET_ELEM_LIST_TABLE, kernelTable)
			a.String(unix.NFTA_SET_ELEM_LIST_SET, kernelSets[set].name)
			a.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *netlink.AttributeEncoder) error {
				for _, e := range part {
					a.Nested(unix.NFTA_LIST_ELEM, func(a *netlink.AttributeEncoder) error {
						e.encode(a, kind == unix.NFT_MSG_NEWSETELEM)
						return nil
					})
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (e kernelElement) encode(a *netlink.AttributeEncoder, data bool) {
	nested := func(kind uint16, fill func(a *netlink.AttributeEncoder)) {
		a.Nested(kind, func(a *netlink.AttributeEncoder) error { fill(a); return nil })
	}
	nested(unix.NFTA_SET_ELEM_KEY, func(a *netlink.AttributeEncoder) { a.Bytes(unix.NFTA_DATA_VALUE, e.key) })
	switch {
	case data && e.verdict:
		nested(unix.NFTA_SET_ELEM_DATA, func(a *netlink.AttributeEncoder) {
			a.Nested(unix.NFTA_DATA_VERDICT, func(a *netlink.AttributeEncoder) error {
				a.Uint32(unix.NFTA_VERDICT_CODE, kernelGoto)
				a.String(unix.NFTA_VERDICT_CHAIN, kernelChain)
				return nil
			})
		})
	case data && e.data != nil:
		nested(unix.NFTA_SET_ELEM_DATA, func(a *netlink.AttributeEncoder) { a.Bytes(unix.NFTA_DATA_VALUE, e.data) })
	}
}

// commit makes one transaction of messages and tells how long the kernel took.
func (k *kernelAlone) commit(messages [][]byte) (time.Duration, error) {
	const ackFlag = 6 // low byte of the flags
	last := messages[len(messages)-1]
	last[ackFlag] |= byte(netlink.Acknowledge) // kernels before 6.10 do not acknowledge the end
	batch := k.frame(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	for _, m := range messages {
		batch = append(batch, m...)
	}
	batch = append(batch, k.frame(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)...)
	if err := unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, len(batch)+1024); err != nil {
		return 0, os.NewSyscallError("send buffer", err)
	}
	answer := make([]byte, kernelAnswer)
	began := time.Now()
	if err := unix.Sendto(k.fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("netlink send", err)
	}
	n, _, err := unix.Recvfrom(k.fd, answer, 0)
	took := time.Since(began)
	if err != nil {
		return 0, os.NewSyscallError("netlink receive", err)
	}
	if n < 20 {
		return 0, errors.New("netlink: short answer")
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[16:])); errno != 0 {
		return 0, fmt.Errorf("netlink: %w", unix.Errno(errno))
	}
	return took, nil
}

// kernelEndpoint is the element of one endpoint of Service i.
func kernelEndpoint(i, j, change int) kernelElement {
	front, to := netip.MustParseAddr(vip(i)).As4(), netip.MustParseAddr(endpointIP(i, j, change)).As4()
	key := append(front[:], 0, 80, 0, 0)
	return kernelElement{key: binary.NativeEndian.AppendUint32(key, uint32(j)),
		data: append(binary.BigEndian.AppendUint16(to[:], targetPort), 0, 0)}
}

// load is what n Services come to, and all sets before it.
func (k *kernelAlone) load(n int) (sets, elements [][]byte, err error) {
	if sets, err = k.skeleton(); err != nil {
		return nil, nil, err
	}
	var lists [3][]kernelElement
	for i := range n {
		addr := netip.MustParseAddr(vip(i)).As4()
		lists[0] = append(lists[0], kernelElement{key: append(addr[:], unix.IPPROTO_TCP, 0, 0, 0, 0, 80, 0, 0), verdict: true})
		lists[1] = append(lists[1], kernelElement{key: addr[:]})
		for j := range proxyEndpoints {
			lists[2] = append(lists[2], kernelEndpoint(i, j, 0))
		}
	}
	for set, list := range lists {
		more, err := k.elements(unix.NFT_MSG_NEWSETELEM, set, list)
		if err != nil {
			return nil, nil, err
		}
		elements = append(elements, more...)
	}
	return sets, elements, nil
}

// replace gives endpoint j of each of n Services another address.
func (k *kernelAlone) replace(first, n, j, change int) ([][]byte, error) {
	var old, fresh []kernelElement
	for i := first; i < first+n; i++ {
		old = append(old, kernelEndpoint(i, j, change))
		fresh = append(fresh, kernelEndpoint(i, j, change+1))
	}
	messages, err := k.elements(unix.NFT_MSG_DELSETELEM, kernelEndpoints, old)
	if err != nil {
		return nil, err
	}
	more, err := k.elements(unix.NFT_MSG_NEWSETELEM, kernelEndpoints, fresh)
	return append(messages, more...), err
}

// benchKernelAlone gives the figures of benchOneProxy for no proxy at all. On
// full tables it takes the table away and writes it anew, in one transaction.
func benchKernelAlone(o proxyOptions, n int) (f *proxyFigures, err error) {
	f = &proxyFigures{mode: limitMode, name: "the kernel alone", services: n}
	w, err := newProxyWorld()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	k, err := openKernelAlone(w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	sets, elements, err := k.load(n)
	if err != nil {
		return nil, err
	}
	gone, err := k.remove()
	if err != nil {
		return nil, err
	}
	loads, restarts := make([]time.Duration, o.repeats), make([]time.Duration, o.repeats)
	for i := range o.repeats {
		if i > 0 {
			if _, err := k.commit([][]byte{gone}); err != nil {
				return nil, err
			}
		}
		if loads[i], err = k.commit(slices.Concat(sets, elements)); err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		if restarts[i], err = k.commit(slices.Concat([][]byte{gone}, sets, elements)); err != nil {
			return nil, fmt.Errorf("load anew: %w", err)
		}
	}
	f.load, f.restart = median(loads), median(restarts)
	for i := range o.repeats {
		for _, step := range []struct {
			first, services, endpoint int
			into                      *[]time.Duration
		}{{n / 2, 1, 0, &f.one}, {n / 4, 100, 1, &f.hundred}} {
			messages, err := k.replace(step.first, step.services, step.endpoint, i)
			if err != nil {
				return nil, err
			}
			took, err := k.commit(messages)
			if err != nil {
				return nil, fmt.Errorf("change: %w", err)
			}
			*step.into = append(*step.into, took)
		}
	}
	return f, nil
}
