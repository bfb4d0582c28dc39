package logind_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/godbus/dbus/v5"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/podlifecycle/shutdown/logind"
)

const patience = time.Minute

// watch runs a Watch on n until the test ends.
func watch(t *testing.T, b *bus, n *node, edit func(*logind.Config)) *logind.Watch {
	t.Helper()
	config := logind.Config{Delay: 30 * time.Second, Shutdown: n.shutdown, Resume: n.resume, Address: b.address,
		Logger: funcr.New(n.log, funcr.Options{})}
	if edit != nil {
		edit(&config)
	}
	w, err := logind.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

// watched waits until the watcher has its lock, times of it.
func watched(g *WithT, l *login, times int) {
	g.THelper()
	g.Eventually(l.timesAsked, patience).Should(BeNumerically(">=", times))
	g.Expect(l.held()).To(Equal(1))
}

// The lock is held until all has ended; then the node may go down.
func TestShutdown(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		g, n := NewWithT(t), newNode()
		b := newBus(t)
		l := newLogin(t, b, 60e6)
		w := watch(t, b, n, func(c *logind.Config) { c.Who = "agent" })
		watched(g, l, 1)
		g.Expect(l.given()[0].words).To(Equal("shutdown|agent|pods end in order|delay"))
		g.Expect(w.ShuttingDown()).To(BeFalse())

		l.announce(true)
		g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}))
		g.Expect(w.ShuttingDown()).To(BeTrue())
		g.Expect(l.held()).To(Equal(1), "pods are still ending")
		close(n.finish)
		g.Eventually(l.held, patience).Should(BeZero())
		g.Expect(n.counts()).To(Equal([3]int{1, 1, 0}))
	})
}

// A shutdown that is called off ends what it began, and the lock is taken anew.
func TestCalledOff(t *testing.T) {
	g, n := NewWithT(t), newNode()
	b := newBus(t)
	l := newLogin(t, b, 60e6)
	w := watch(t, b, n, nil)
	watched(g, l, 1)
	l.announce(true)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}))
	l.announce(false)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 1, 1}))
	g.Expect(l.held()).To(Equal(1))
	g.Expect(w.ShuttingDown()).To(BeFalse())

	close(n.finish)
	l.announce(true)
	g.Eventually(l.held, patience).Should(BeZero())
	l.announce(false)
	g.Eventually(n.counts, patience).Should(Equal([3]int{2, 2, 2}))
	g.Expect(l.given()).To(HaveLen(2))
	g.Expect(l.held()).To(Equal(1), "it is held again")
}

// Nobody but logind can announce a shutdown, be it to everybody or to the agent alone.
func TestForeignSignal(t *testing.T) {
	g, n := NewWithT(t), newNode()
	b := newBus(t)
	l := newLogin(t, b, 60e6)
	watch(t, b, n, nil)
	watched(g, l, 1)
	other := b.connect()
	g.Expect(other.Emit("/org/freedesktop/login1", "org.freedesktop.login1.Manager.PrepareForShutdown", true)).To(Succeed())
	message := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/login1")),
		dbus.FieldInterface:   dbus.MakeVariant("org.freedesktop.login1.Manager"),
		dbus.FieldMember:      dbus.MakeVariant("PrepareForShutdown"),
		dbus.FieldDestination: dbus.MakeVariant(l.given()[0].owner),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(true)),
	}, Body: []any{true}}
	g.Expect(other.Send(message, nil).Err).NotTo(HaveOccurred())
	g.Eventually(n.said, patience).Should(ContainSubstring("announced by somebody else"))
	g.Expect(n.counts()).To(Equal([3]int{}))
	g.Expect(l.held()).To(Equal(1))
	l.announce(true)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}))
}

// logind is told to wait as long as the pods may take.
func TestDelay(t *testing.T) {
	t.Run("raised", func(t *testing.T) {
		g, n := NewWithT(t), newNode()
		b := newBus(t)
		l := newLogin(t, b, 5e6)
		watch(t, b, n, func(c *logind.Config) { c.ConfDir, c.Delay = l.confDir, 30500*time.Millisecond })
		g.Eventually(n.said, patience).Should(ContainSubstring("shutdown is watched"))
		g.Expect(os.ReadFile(filepath.Join(l.confDir, "99-nodekit.conf"))).To(BeEquivalentTo("[Login]\nInhibitDelayMaxSec=31\n"))
		l.mu.Lock()
		defer l.mu.Unlock()
		g.Expect(l.reloads).To(Equal(1))
		g.Expect(n.said()).NotTo(ContainSubstring("shorter"))
	})
	t.Run("not to be changed", func(t *testing.T) {
		g, n := NewWithT(t), newNode()
		b := newBus(t)
		l := newLogin(t, b, 5e6)
		watch(t, b, n, nil)
		g.Eventually(n.said, patience).Should(And(ContainSubstring("shorter than the pods' time"), ContainSubstring("logind waits 5s and not 30s")))
		watched(g, l, 1)
		l.announce(true)
		g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}), "they get what there is")
	})
}

// A shutdown that had begun before the agent is seen, though no lock can be had.
func TestLate(t *testing.T) {
	g, n := NewWithT(t), newNode()
	b := newBus(t)
	l := newLogin(t, b, 60e6)
	l.mu.Lock()
	l.preparing = true
	l.mu.Unlock()
	watch(t, b, n, nil)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}))
	l.announce(false)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 1, 1}))
	g.Expect(l.held()).To(Equal(1))
}

// Bus and logind may come late and go away: what has begun goes on, and then it is
// watched again.
func TestBusRestart(t *testing.T) {
	g, n := NewWithT(t), newNode()
	b := newBus(t)
	b.stop()
	w := watch(t, b, n, nil)
	g.Eventually(n.said, patience).Should(ContainSubstring("connect to the bus"))
	b.start()
	l := newLogin(t, b, 60e6)
	watched(g, l, 1)
	l.announce(true)
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 0, 0}))

	b.stop()
	g.Eventually(n.said, patience).Should(Or(ContainSubstring("connection to the bus is lost"), ContainSubstring("closed")))
	g.Expect(l.held()).To(Equal(1), "the pods are still ending")
	g.Expect(w.ShuttingDown()).To(BeTrue())
	close(n.finish)
	g.Eventually(l.held, patience).Should(BeZero())
	g.Expect(n.counts()).To(Equal([3]int{1, 1, 0}))
	b.start()
	again := newLogin(t, b, 60e6) // the shutdown did not happen
	g.Eventually(n.counts, patience).Should(Equal([3]int{1, 1, 1}))
	watched(g, again, 1)
}

func TestRunTwice(t *testing.T) {
	g, n := NewWithT(t), newNode()
	w, err := logind.New(logind.Config{Delay: time.Second, Shutdown: n.shutdown, Address: "unix:path=/nowhere"})
	g.Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.Expect(w.Run(ctx)).To(Succeed())
	g.Expect(w.Run(ctx)).To(MatchError(logind.ErrStarted))
}
