package source

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Inside the package: no other way leads to the parser of what the kernel says.
func FuzzEachEvent(f *testing.F) {
	// wd 1, IN_MOVED_TO, "a.yaml".
	f.Add([]byte("\x01\x00\x00\x00\x80\x00\x00\x00\x07\x00\x00\x00\x10\x00\x00\x00a.yaml\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x80\x00\x00\x00\x07\x00\x00\x00\xff\xff\xff\xffa"))
	f.Fuzz(func(t *testing.T, data []byte) {
		told := 0
		eachEvent(data, func(_ int, _ uint32, name string) { told += unix.SizeofInotifyEvent + len(name) })
		if told > len(data) {
			t.Errorf("%d bytes were made of %d", told, len(data))
		}
	})
}
