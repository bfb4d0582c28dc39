package discovery

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

var errNotice = errors.New("the kernel's notice is not understood")

// notice is what the kernel tells of one entry of a directory.
type notice struct {
	mask       uint64
	handleType int32
	handle     []byte // of the directory; aliases the text
	name       string // of the entry
}

// parseFanotify reads what a group with FAN_REPORT_DFID_NAME was given
// (fanotify(7), include/uapi/linux/fanotify.h of Linux 6.18):
//
//	event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd s32, pid s32
//	info_type u8, pad u8, len u16, fsid [8], handle_bytes u32, handle_type s32, handle, name, 0
func parseFanotify(b []byte, f func(notice)) (lost bool, err error) {
	const head, infoHead = 24, 20
	order := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < head {
			return lost, errNotice
		}
		size, meta := int(order.Uint32(b)), int(order.Uint16(b[6:]))
		if size < meta || size > len(b) || meta < head || b[4] != unix.FANOTIFY_METADATA_VERSION {
			return lost, errNotice
		}
		one := notice{mask: order.Uint64(b[8:])}
		info := b[meta:size]
		b = b[size:]
		if one.mask&unix.FAN_Q_OVERFLOW != 0 {
			lost = true
			continue
		}
		for len(info) > 0 {
			if len(info) < 4 {
				return lost, errNotice
			}
			n := int(order.Uint16(info[2:]))
			if n < 4 || n > len(info) {
				return lost, errNotice
			}
			if info[0] == unix.FAN_EVENT_INFO_TYPE_DFID_NAME {
				if n < infoHead {
					return lost, errNotice
				}
				// Compared as uint64, for int may have 32 bits.
				length := order.Uint32(info[12:])
				if uint64(infoHead)+uint64(length) > uint64(n) {
					return lost, errNotice
				}
				one.handleType = int32(order.Uint32(info[16:]))
				one.handle = info[infoHead : infoHead+int(length)]
				name, _, ok := bytes.Cut(info[infoHead+int(length):n], []byte{0})
				if !ok || len(name) == 0 || bytes.IndexByte(name, '/') >= 0 {
					return lost, errNotice
				}
				one.name = string(name)
				f(one)
			}
			info = info[n:]
		}
	}
	return lost, nil
}
