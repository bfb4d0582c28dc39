package logind_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>`

// bus is a dbus-daemon of the test's own.
type bus struct {
	t       *testing.T
	dir     string
	address string
	daemon  *exec.Cmd
}

func newBus(t *testing.T) *bus {
	t.Helper()
	kerneltest.Require(t, kerneltest.DBus)
	dir, err := os.MkdirTemp("", "bus") // short, as the path of a socket has to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bus{t: t, dir: dir, address: "unix:path=" + filepath.Join(dir, "bus")}
	if err := os.WriteFile(filepath.Join(dir, "config"), fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.stop)
	b.start()
	return b
}

// start returns once the bus takes connections.
func (b *bus) start() {
	b.t.Helper()
	b.daemon = exec.Command("dbus-daemon", "--config-file="+filepath.Join(b.dir, "config"), "--nofork", "--nopidfile", "--print-address")
	out, err := b.daemon.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.t.Fatalf("dbus-daemon tells no address: %v", err)
	}
}

func (b *bus) stop() {
	if b.daemon == nil {
		return
	}
	_ = b.daemon.Process.Kill()
	_ = b.daemon.Wait()
	b.daemon = nil
	_ = os.Remove(filepath.Join(b.dir, "bus"))
}

func (b *bus) connect() *dbus.Conn {
	b.t.Helper()
	conn, err := dbus.Connect(b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// login plays systemd-logind, and of systemd what has logind read its configuration.
type login struct {
	t       *testing.T
	conn    *dbus.Conn
	confDir string

	mu        sync.Mutex
	delay     uint64 // InhibitDelayMaxUSec
	asked     int    // how often for it
	preparing bool
	locks     []lock
	reloads   int
}

// lock is one that was given: the reading end of a pipe tells whether the other end
// is still held.
type lock struct {
	words    string
	owner    string // of whom it is
	ours     *os.File
	theirs   *os.File // a copy, until drop
	released bool
}

func newLogin(t *testing.T, b *bus, delay uint64) *login {
	t.Helper()
	l := &login{t: t, conn: b.connect(), confDir: filepath.Join(b.dir, "logind.conf.d"), delay: delay}
	for _, e := range []struct {
		path       dbus.ObjectPath
		face, name string
	}{
		{"/org/freedesktop/login1", "org.freedesktop.login1.Manager", "org.freedesktop.login1"},
		{"/org/freedesktop/login1", "org.freedesktop.DBus.Properties", "org.freedesktop.login1"},
		{"/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "org.freedesktop.systemd1"},
	} {
		if err := l.conn.Export(exported{l}, e.path, e.face); err != nil {
			t.Fatal(err)
		}
		if _, err := l.conn.RequestName(e.name, dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range l.locks {
			_ = l.locks[i].ours.Close()
			_ = l.locks[i].theirs.Close()
		}
	})
	return l
}

// exported has what may be called over the bus.
type exported struct{ l *login }

// Inhibit gives a lock.
func (e exported) Inhibit(sender dbus.Sender, what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.preparing {
		return 0, dbus.NewError("org.freedesktop.login1.OperationInProgress", nil)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.locks = append(l.locks, lock{words: strings.Join([]string{what, who, why, mode}, "|"), owner: string(sender), ours: ours, theirs: theirs})
	return dbus.UnixFD(theirs.Fd()), nil
}

// Get gives a property.
func (e exported) Get(_, name string) (dbus.Variant, *dbus.Error) {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "InhibitDelayMaxUSec" {
		l.asked++
		return dbus.MakeVariant(l.delay), nil
	}
	return dbus.MakeVariant(l.preparing), nil
}

// KillUnit reads the configuration.
func (e exported) KillUnit(unit, who string, signal int32) *dbus.Error {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if unit != "systemd-logind.service" || who != "all" || signal != 1 {
		return dbus.MakeFailedError(fmt.Errorf("%s %s %d", unit, who, signal))
	}
	l.reloads++
	files, _ := filepath.Glob(filepath.Join(l.confDir, "*.conf"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return dbus.MakeFailedError(err)
		}
		if m := regexp.MustCompile(`(?m)^\[Login\]\nInhibitDelayMaxSec=(\d+)$`).FindSubmatch(data); m != nil {
			seconds, _ := strconv.ParseUint(string(m[1]), 10, 64)
			l.delay = seconds * 1e6
		}
	}
	return nil
}

// announce sends PrepareForShutdown.
func (l *login) announce(down bool) {
	l.t.Helper()
	l.mu.Lock()
	l.preparing = down
	l.mu.Unlock()
	if err := l.conn.Emit("/org/freedesktop/login1", "org.freedesktop.login1.Manager.PrepareForShutdown", down); err != nil {
		l.t.Fatal(err)
	}
}

// held tells how many locks are held, once the watcher has got them: then the
// service's own copies can go.
func (l *login) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.locks {
		k := &l.locks[i]
		_ = k.theirs.Close()
		if k.released {
			continue
		}
		fds := []unix.PollFd{{Fd: int32(k.ours.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&unix.POLLHUP != 0 {
			k.released = true
			continue
		}
		n++
	}
	return n
}

func (l *login) given() []lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]lock(nil), l.locks...)
}

func (l *login) timesAsked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// node is what a Watch acts on.
type node struct {
	mu      sync.Mutex
	begun   int
	ended   int
	resumed int
	finish  chan struct{}
	lines   []string
}

func newNode() *node { return &node{finish: make(chan struct{})} }

func (n *node) shutdown(ctx context.Context) error {
	n.count(&n.begun)
	defer n.count(&n.ended)
	select {
	case <-n.finish:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) resume() { n.count(&n.resumed) }

func (n *node) count(of *int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*of++
}

func (n *node) log(prefix, args string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, prefix+args)
}

func (n *node) counts() [3]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return [3]int{n.begun, n.ended, n.resumed}
}

func (n *node) said() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.lines, "\n")
}
