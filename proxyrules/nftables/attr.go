package nftables

import (
	"encoding/binary"
	"errors"
)

var errAttribute = errors.New("truncated netlink attribute")

const (
	attrNested   = 0x8000
	attrTypeMask = 0x3fff
)

// buffer appends netlink attributes.
type buffer struct{ b []byte }

func (w *buffer) pad() {
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *buffer) head(kind uint16, length int) {
	w.b = binary.NativeEndian.AppendUint16(w.b, uint16(4+length))
	w.b = binary.NativeEndian.AppendUint16(w.b, kind)
}

func (w *buffer) bytes(kind uint16, data []byte) {
	w.head(kind, len(data))
	w.b = append(w.b, data...)
	w.pad()
}

// text is terminated by a zero byte.
func (w *buffer) text(kind uint16, s string) {
	w.head(kind, len(s)+1)
	w.b = append(w.b, s...)
	w.b = append(w.b, 0)
	w.pad()
}

// u32 is big-endian, as all numbers of nf_tables are.
func (w *buffer) u32(kind uint16, v uint32) {
	w.head(kind, 4)
	w.b = binary.BigEndian.AppendUint32(w.b, v)
}

// u64 is big-endian, too.
func (w *buffer) u64(kind uint16, v uint64) {
	w.head(kind, 8)
	w.b = binary.BigEndian.AppendUint64(w.b, v)
}

// begin opens a nested attribute; end closes it.
func (w *buffer) begin(kind uint16) int {
	at := len(w.b)
	w.head(kind|attrNested, 0)
	return at
}

func (w *buffer) end(at int) {
	binary.NativeEndian.PutUint16(w.b[at:], uint16(len(w.b)-at))
	w.pad()
}

// attributes calls f for each attribute in b, nested flag removed.
func attributes(b []byte, f func(kind uint16, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return errAttribute
		}
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			return errAttribute
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[4:length]); err != nil {
			return err
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

func readText(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return string(b[:n-1])
	}
	return string(b)
}

// readU32 gives 0 for anything but four bytes.
func readU32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
