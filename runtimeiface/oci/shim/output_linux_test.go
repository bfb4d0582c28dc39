package shim

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Internal: what is tested here is the program, it has no other callers.

// newSink gives a client's pipe, with its own buffer as small as can be.
func newSink(t *testing.T) (*sink, *os.File) {
	t.Helper()
	from, theirs, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	to, err := nonblocking(int(theirs), "client")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(theirs, unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = from.Close(), to.Close() })
	return &sink{file: to}, from
}

func TestSlowClientsGetAllOfIt(t *testing.T) {
	k, from := newSink(t)
	var want bytes.Buffer
	got := make(chan []byte)
	for i := range 5 {
		piece := bytes.Repeat([]byte{byte('a' + i)}, 3000)
		want.Write(piece)
		k.offer(piece) // never waits, whatever the pipe holds
	}
	go func() { data, _ := io.ReadAll(from); got <- data }()
	k.flush()
	if len(k.rest) != 0 || k.err != nil {
		t.Fatalf("%d bytes are left, %v", len(k.rest), k.err)
	}
	_ = k.file.Close()
	if data := <-got; !bytes.Equal(data, want.Bytes()) {
		t.Errorf("%d bytes became %d", want.Len(), len(data))
	}
}

func TestClientsAreNotWaitedForOnceTheProgramIsDead(t *testing.T) {
	k, _ := newSink(t)
	k.offer(make([]byte, 3*4096))
	_ = k.file.SetWriteDeadline(time.Unix(1, 0))
	k.flush() // returns
	if len(k.rest) != 2*4096 || k.err != nil {
		t.Fatalf("%d bytes are left, %v", len(k.rest), k.err)
	}
	k.offer(make([]byte, maxRest))
	if k.err != errSlow || k.rest != nil {
		t.Errorf("%d bytes are kept, %v", len(k.rest), k.err)
	}
}

func TestWhatIsSaidLastIsKept(t *testing.T) {
	k, from := newSink(t)
	_ = k.file.SetWriteDeadline(time.Unix(1, 0))
	k.offer([]byte("last words"))
	k.flush()
	_ = k.file.SetWriteDeadline(time.Time{})
	k.flush()
	_ = k.file.Close()
	if data, err := io.ReadAll(from); string(data) != "last words" {
		t.Errorf("%q arrived, %v, %v", data, err, k.err)
	}
}

func TestClientsThatAreGoneCostNothing(t *testing.T) {
	k, from := newSink(t)
	k.offer(make([]byte, 2*4096))
	_ = from.Close()
	k.flush()
	k.offer(make([]byte, 4096))
	if k.err == nil || k.rest != nil {
		t.Errorf("%d bytes are kept, %v", len(k.rest), k.err)
	}
}

func TestConnectionsTakeNoMoreThanFits(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newConn(t, pair[0]), newConn(t, pair[1])
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(null) })
	for _, fds := range [][]int{nil, {null}, {null, null, null, null}} {
		if err := a.Send(Message{Seq: 9, Op: OpExec}, fds...); err != nil {
			t.Fatal(err)
		}
		m, err := ReadMessage(b)
		got := b.Rights()
		if err != nil || m.Seq != 9 || len(got) != len(fds) {
			t.Errorf("%d descriptors became %d, %v, %v", len(fds), len(got), m, err)
		}
		closeAll(got)
	}
	var many []int
	for range maxRights + 1 {
		many = append(many, null)
	}
	if err := a.Send(Message{Op: OpExec}, many...); err != nil {
		t.Fatal(err)
	}
	if m, err := ReadMessage(b); err == nil {
		t.Errorf("a message with %d descriptors was taken: %v", len(many), m)
	}
	b.CloseRights()
	if len(b.fds) != 0 {
		t.Error("descriptors are left")
	}
}

func newConn(t *testing.T, fd int) *Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &Conn{UnixConn: c.(*net.UnixConn)}
}
