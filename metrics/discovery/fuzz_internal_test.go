//go:build linux

package discovery

// In the package itself, for it feeds the parsers, which are its inside.

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var order = binary.NativeEndian

// madeNotice is what the kernel writes when "c1" is made in a directory whose
// handle is of eight bytes.
func madeNotice(name string) []byte {
	info := []byte{unix.FAN_EVENT_INFO_TYPE_DFID_NAME, 0}
	length := 4 + 8 + 8 + 8 + len(name) + 1
	for length%4 != 0 {
		length++
	}
	info = order.AppendUint16(info, uint16(length))
	info = append(info, make([]byte, 8)...)
	info = order.AppendUint32(info, 8)
	info = order.AppendUint32(info, 0xfe)
	info = append(info, 1, 2, 3, 4, 5, 6, 7, 8)
	info = append(info, name...)
	info = append(info, make([]byte, length-len(info))...)
	b := order.AppendUint32(nil, uint32(24+len(info)))
	b = append(b, unix.FANOTIFY_METADATA_VERSION, 0)
	b = order.AppendUint16(b, 24)
	b = order.AppendUint64(b, unix.FAN_CREATE|unix.FAN_ONDIR)
	b = order.AppendUint32(b, 0xffffffff)
	b = order.AppendUint32(b, 1)
	return append(b, info...)
}

func TestParseFanotify(t *testing.T) {
	var got []notice
	lost, err := parseFanotify(append(madeNotice("c1"), madeNotice("long-name.scope")...), func(n notice) { got = append(got, n) })
	if err != nil || lost || len(got) != 2 || got[0].name != "c1" || got[1].name != "long-name.scope" ||
		got[0].handleType != 0xfe || len(got[0].handle) != 8 || got[0].mask&unix.FAN_CREATE == 0 {
		t.Errorf("%+v, lost %v, %v", got, lost, err)
	}
	for n := 1; n < len(madeNotice("c1")); n++ {
		if _, err := parseFanotify(madeNotice("c1")[:n], func(notice) { t.Error("took a notice that is cut at", n) }); err == nil {
			t.Error("no error for a notice that is cut at", n)
		}
	}
}

// FuzzFanotify: no panic, and no name that leads out of its directory.
func FuzzFanotify(f *testing.F) {
	f.Add(madeNotice("c1"))
	f.Add(append(madeNotice("a"), madeNotice("cgroup.events")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseFanotify(b, func(n notice) {
			if n.name == "" || strings.ContainsAny(n.name, "/\x00") {
				t.Errorf("took the name %q", n.name)
			}
		})
	})
}

// FuzzInotify is the same for inotify.
func FuzzInotify(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x01\x00\x40\x00\x00\x00\x00\x04\x00\x00\x00abc\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseInotify(b, func(_ int32, _ uint32, name string) {
			if strings.ContainsAny(name, "/\x00") {
				t.Errorf("took the name %q", name)
			}
		})
	})
}
