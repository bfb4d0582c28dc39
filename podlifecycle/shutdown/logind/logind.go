package logind

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/godbus/dbus/v5"
	"k8s.io/utils/clock"
)

const (
	service  = "org.freedesktop.login1"
	manager  = service + ".Manager"
	object   = dbus.ObjectPath("/org/freedesktop/login1")
	signal   = "PrepareForShutdown"
	dropIn   = "99-nodekit.conf"
	reDial   = time.Second
	callTime = 25 * time.Second
	// It reads its configuration some time after the signal.
	reloadTries = 20
	reloadWait  = 100 * time.Millisecond
)

var (
	// ErrStarted: Run was called a second time.
	ErrStarted = errors.New("already started")
	// errLost: the connection to the bus is gone.
	errLost = errors.New("the connection to the bus is lost")
)

// Config of a Watch.
type Config struct {
	// Delay is how long Shutdown takes at most; required.
	Delay time.Duration
	// Shutdown ends what runs, and returns once the node may go down, or soon after
	// ctx has ended; required. It is called from one goroutine at a time.
	Shutdown func(ctx context.Context) error
	// Resume is called after a shutdown that was called off; may be nil.
	Resume func()
	// Who stands in the list of inhibitors; "" means "nodekit".
	Who string
	// ConfDir is logind's directory for drop-ins, absolute, such as
	// /etc/systemd/logind.conf.d, to raise InhibitDelayMaxSec there if it is less than
	// Delay; "" leaves it as it is. It needs root.
	ConfDir string
	// Address of the bus; "" means the system's.
	Address string
	// Clock; nil means the real one.
	Clock clock.WithDelayedExecution
	// Logger; the zero value discards.
	Logger logr.Logger
}

// Watch waits for a shutdown.
type Watch struct {
	config  Config
	started atomic.Bool
	down    atomic.Bool

	mu   sync.Mutex
	lock *os.File // nil without one

	// Of Run's goroutine alone.
	stop context.CancelFunc // of the Shutdown that has begun
	done chan struct{}      // closed when it has returned; nil without one
}

// New checks config. It does no I/O and starts nothing.
func New(config Config) (*Watch, error) {
	var errs []error
	if config.Delay <= 0 {
		errs = append(errs, fmt.Errorf("a Delay is required: %v", config.Delay))
	}
	if config.Shutdown == nil {
		errs = append(errs, errors.New("a Shutdown is required"))
	}
	if config.ConfDir != "" && !filepath.IsAbs(config.ConfDir) {
		errs = append(errs, fmt.Errorf("the ConfDir must be an absolute path: %q", config.ConfDir))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("logind config: %w", err)
	}
	if config.Who == "" {
		config.Who = "nodekit"
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Watch{config: config}, nil
}

// ShuttingDown tells whether the node is about to go down.
func (w *Watch) ShuttingDown() bool { return w.down.Load() }

// Run watches until ctx ends, and gives nil then, with the lock let go and Shutdown
// returned. A bus or logind that cannot be reached is told to the log and tried
// again.
func (w *Watch) Run(ctx context.Context) error {
	if w.started.Swap(true) {
		return ErrStarted
	}
	defer w.release()
	defer w.callOff()
	told := ""
	for ctx.Err() == nil {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != told {
			w.config.Logger.Error(err, "node shutdown cannot be seen")
			told = err.Error()
		}
		timer := w.config.Clock.NewTimer(reDial)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// session is one connection to the bus, from its begin to its end.
func (w *Watch) session(ctx context.Context) error {
	bus, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to the bus: %w", err)
	}
	defer bus.Close()
	// First the ears, then the question and the lock: nothing is missed between.
	heard := make(chan *dbus.Signal, 16)
	bus.Signal(heard)
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchSender(service), dbus.WithMatchObjectPath(object),
		dbus.WithMatchInterface(manager), dbus.WithMatchMember(signal)); err != nil {
		return fmt.Errorf("listen to logind: %w", err)
	}
	preparing, err := property[bool](ctx, bus, "PreparingForShutdown")
	if err != nil {
		return err
	}
	if !preparing {
		if err := w.hold(ctx, bus); err != nil {
			return err
		}
		if err := w.ensureDelay(ctx, bus); err != nil {
			w.config.Logger.Error(err, "node shutdown may be shorter than the pods' time", "delay", w.config.Delay)
		}
	}
	w.config.Logger.Info("node shutdown is watched", "delay", w.config.Delay)
	for {
		switch {
		case preparing && w.done == nil:
			w.begin(ctx)
		case !preparing && w.done != nil:
			w.callOff()
			w.config.Logger.Info("node shutdown was called off")
			err := w.hold(ctx, bus)
			if w.config.Resume != nil {
				w.config.Resume()
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-heard:
			if !ok {
				return errLost
			}
			if said, ok := w.understand(ctx, bus, s); ok {
				preparing = said
			}
		}
	}
}

// understand reads a signal, if it is logind's. One that is sent to this
// connection directly comes whatever was asked to be heard.
func (w *Watch) understand(ctx context.Context, bus *dbus.Conn, s *dbus.Signal) (down, ok bool) {
	if s.Name != manager+"."+signal || s.Path != object || len(s.Body) != 1 {
		return false, false
	}
	if down, ok = s.Body[0].(bool); !ok {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var owner string
	err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, service).Store(&owner)
	if err != nil || owner != s.Sender {
		w.config.Logger.Info("a shutdown was announced by somebody else", "sender", s.Sender)
		return false, false
	}
	return down, true
}

// begin runs Shutdown, and lets go of the lock once it has returned. Both outlive
// the connection to the bus.
func (w *Watch) begin(ctx context.Context) {
	w.config.Logger.Info("node is shutting down", "delay", w.config.Delay)
	w.down.Store(true)
	ctx, w.stop = context.WithCancel(ctx)
	done := make(chan struct{})
	w.done = done
	go func() {
		defer close(done)
		err := w.config.Shutdown(ctx)
		if ctx.Err() != nil {
			return // called off
		}
		if err != nil {
			w.config.Logger.Error(err, "end pods for the shutdown")
		}
		w.release()
		w.config.Logger.Info("node may shut down")
	}()
}

// callOff ends Shutdown, if it is under way, and waits for it.
func (w *Watch) callOff() {
	if w.done == nil {
		return
	}
	w.stop()
	<-w.done
	w.done = nil
	w.down.Store(false)
}

func (w *Watch) connect(ctx context.Context) (*dbus.Conn, error) {
	// The connection lives as long as ctx; it closes what it was given to signal to.
	if w.config.Address != "" {
		return dbus.Connect(w.config.Address, dbus.WithContext(ctx))
	}
	return dbus.ConnectSystemBus(dbus.WithContext(ctx))
}

// hold takes the lock, if it is not held: a descriptor, which logind waits for to be
// closed.
func (w *Watch) hold(ctx context.Context, bus *dbus.Conn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lock != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var fd dbus.UnixFD
	err := bus.Object(service, object).CallWithContext(ctx, manager+".Inhibit", 0, "shutdown", w.config.Who, "pods end in order", "delay").Store(&fd)
	if err != nil {
		return fmt.Errorf("take logind's lock: %w", err)
	}
	w.lock = os.NewFile(uintptr(fd), "inhibit")
	return nil
}

func (w *Watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lock != nil {
		_ = w.lock.Close()
		w.lock = nil
	}
}

// ensureDelay sees to it that logind waits as long as Shutdown may take.
func (w *Watch) ensureDelay(ctx context.Context, bus *dbus.Conn) error {
	have, err := delay(ctx, bus)
	if err != nil {
		return err
	}
	if have >= w.config.Delay {
		return nil
	}
	if w.config.ConfDir == "" {
		return fmt.Errorf("logind waits %v and not %v: raise InhibitDelayMaxSec", have, w.config.Delay)
	}
	text := fmt.Sprintf("[Login]\nInhibitDelayMaxSec=%.0f\n", math.Ceil(w.config.Delay.Seconds()))
	if err := writeFile(filepath.Join(w.config.ConfDir, dropIn), text); err != nil {
		return fmt.Errorf("raise InhibitDelayMaxSec: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	// SIGHUP makes logind read its configuration.
	call := bus.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").CallWithContext(ctx,
		"org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", int32(1))
	if call.Err != nil {
		return fmt.Errorf("have logind read its configuration: %w", call.Err)
	}
	for range reloadTries {
		if have, err = delay(ctx, bus); err != nil || have >= w.config.Delay {
			return err
		}
		timer := w.config.Clock.NewTimer(reloadWait)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return fmt.Errorf("logind still waits %v and not %v", have, w.config.Delay)
}

func delay(ctx context.Context, bus *dbus.Conn) (time.Duration, error) {
	micros, err := property[uint64](ctx, bus, "InhibitDelayMaxUSec")
	return time.Duration(min(micros, uint64(math.MaxInt64/time.Microsecond))) * time.Microsecond, err
}

func property[T any](ctx context.Context, bus *dbus.Conn, name string) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var v dbus.Variant
	var value T
	err := bus.Object(service, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, manager, name).Store(&v)
	if err == nil {
		err = v.Store(&value)
	}
	if err != nil {
		return value, fmt.Errorf("ask logind for %s: %w", name, err)
	}
	return value, nil
}

// writeFile puts a whole file in its place.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".nodekit-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
