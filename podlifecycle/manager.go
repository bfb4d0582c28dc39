package podlifecycle

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/admission"
	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	"github.com/nodekit/nodekit/podlifecycle/journal"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
)

// retryRuntime is how long to wait for a runtime that does not answer.
const retryRuntime = time.Second

// Manager runs the pods of a set on a runtime. Its methods may be used
// concurrently.
type Manager struct {
	config  Config
	node    *admission.Node
	evictor *evictor // nil: nobody is evicted
	probes  *probe.Manager
	http    *http.Client
	pulls   chan struct{}
	kicked  chan struct{} // reconcile
	started atomic.Bool
	stopped chan struct{} // closed when Run returns
	drained chan struct{} // closed when StopAll has ended the last pod

	journal *journal.Journal // of Run
	dirty   chan struct{}    // the journal has something to sync
	version atomic.Pointer[runtimeiface.Version]
	set     atomic.Pointer[source.Set]

	mu       sync.Mutex
	workers  map[types.UID]*worker
	phantoms map[string]*corev1.Pod // by namespace/name: manifests that are no pods
	draining bool
	closing  bool // the node is about to go down
	resumed  bool // it is not, and reconcile has not seen to it yet
	unwell   unwell
	ring     ring // decisions about the node

	images    imageWatch
	rights    rights
	collector chan struct{} // held by whoever removes images

	// Of Run's goroutine alone.
	recovered map[types.UID]remembered
	damage    string // of the journal, "" once every pod has a record of it
	users     *users
	running   map[types.UID]bool // pods that held something before the first set
	first     bool               // the first set has been taken
	whole     bool               // a set has been taken after all sources spoke
	swept     bool               // what lost pods left has been looked for once
	told      map[string]bool    // problems of manifests that are on the log
	group     sync.WaitGroup
	ended     chan *worker
}

// New checks config. It does no I/O and starts nothing.
func New(config Config) (*Manager, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	m := &Manager{
		config: config, pulls: make(chan struct{}, config.MaxParallelPulls), kicked: make(chan struct{}, 1),
		stopped: make(chan struct{}), drained: make(chan struct{}), workers: map[types.UID]*worker{}, phantoms: map[string]*corev1.Pod{},
		recovered: map[types.UID]remembered{}, users: newUsers(config.UserIDs), dirty: make(chan struct{}, 1), ended: make(chan *worker),
		ring: ring{max: config.Records}, images: imageWatch{uses: map[string]imagegc.Use{}}, rights: rights{pulling: map[string]int{}}, collector: make(chan struct{}, 1),
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}},
	}
	if m.node, err = config.admission(); err != nil {
		return nil, fmt.Errorf("podlifecycle config: %w", err)
	}
	if config.Eviction != nil {
		if m.evictor, err = newEvictor(m, *config.Eviction); err != nil {
			return nil, fmt.Errorf("podlifecycle config: %w", err)
		}
	}
	m.probes, err = probe.New(probe.Config{
		Prober: config.Prober, Clock: config.Clock, Seed: config.Seed, Logger: config.Logger,
		Changed: func(c probe.Change) {
			m.hint(c.PodUID)
			m.unhealthy(c)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("podlifecycle config: %w", err)
	}
	return m, nil
}

// Set gives the whole of what shall run, in place of the set before. Pods that
// are not in it end gracefully, unless a source is Waiting. It does not block; before the first call
// nothing is begun and nothing ends. Objects in it are shared: do not change them.
func (m *Manager) Set(set source.Set) {
	m.set.Store(&set)
	m.kick()
}

func (m *Manager) kick() {
	select {
	case m.kicked <- struct{}{}:
	default:
	}
}

// objects are what pods refer to, of the newest set.
func (m *Manager) objects() source.Set {
	if set := m.set.Load(); set != nil {
		return *set
	}
	return source.Set{}
}

func (m *Manager) scheme() string {
	if v := m.version.Load(); v != nil {
		return v.Scheme
	}
	return ""
}

// hint wakes a pod's worker.
func (m *Manager) hint(uid types.UID) {
	if w := m.worker(uid); w != nil {
		w.wake()
	}
}

// heard tells a pod's worker of an event of the runtime, which says no more than
// that something changed.
func (m *Manager) heard(uid types.UID) {
	if w := m.worker(uid); w != nil {
		w.heard()
	}
}

func (m *Manager) worker(uid types.UID) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

// Run keeps the pods running until ctx ends, and gives nil then. Pods run on:
// the next Run, of this program or another, finds them. Use StopAll to end them.
// It fails if the journal cannot be opened.
func (m *Manager) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return ErrStarted
	}
	defer close(m.stopped)
	if err := m.openJournal(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var helpers sync.WaitGroup
	helpers.Go(func() { m.watch(ctx) })
	helpers.Go(func() {
		if err := m.probes.Run(ctx); err != nil {
			m.config.Logger.Error(err, "probes ended")
		}
	})
	helpers.Go(func() { m.syncJournal(ctx) })
	helpers.Go(func() { m.collectImages(ctx) })
	helpers.Go(func() { m.keepLogs(ctx) })
	if m.evictor != nil {
		helpers.Go(func() { m.evictor.run(ctx) })
		helpers.Go(func() { m.evictor.measureLimits(ctx) })
	}
	m.loop(ctx)
	cancel()
	m.group.Wait()
	helpers.Wait()
	m.http.CloseIdleConnections()
	if err := m.journal.Close(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

func (m *Manager) openJournal() error {
	j, found, err := journal.Open(journal.Config{Path: filepath.Join(m.config.Root, "journal")})
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	if found.Quarantined != "" {
		m.config.Logger.Info("journal was damaged and is rebuilt", "lost", found.Lost, "copy", found.Quarantined)
		m.damage = fmt.Sprintf("%d bytes of the journal were lost, %s has what it was", found.Lost, found.Quarantined)
		if found.Err != nil {
			m.damage = fmt.Sprintf("the journal could not be read (%v), %s has what it was", found.Err, found.Quarantined)
		}
	}
	m.journal = j
	pods, errs := recall(j)
	for _, err := range errs {
		m.config.Logger.Error(err, "journal entry dropped")
	}
	m.recovered = pods
	return nil
}

// loop waits for the runtime and the first set, and then reconciles whenever
// something asks for it.
func (m *Manager) loop(ctx context.Context) {
	if !m.greet(ctx) {
		return
	}
	ticker := m.config.Clock.NewTicker(m.config.Relist)
	defer ticker.Stop()
	sweeper := m.config.Clock.NewTicker(sweepEvery)
	defer sweeper.Stop()
	changed, due, dusty, looks := false, false, false, 0
	for ctx.Err() == nil {
		for more := true; more; { // what came meanwhile, so that one look serves it all
			select {
			case <-m.kicked:
				changed = true
			case w := <-m.ended:
				m.remove(w)
				changed = true
			case <-ticker.C():
				due = true
			case <-sweeper.C():
				dusty = true
			default:
				more = false
			}
		}
		if !changed && !due && !dusty {
			m.wakeDue()
			select {
			case <-ctx.Done():
			case <-m.kicked:
				changed = true
			case w := <-m.ended:
				m.remove(w)
				changed = true
			case <-ticker.C():
				due = true
			case <-sweeper.C():
				dusty = true
			}
			continue // with what came beside it
		}
		if ctx.Err() != nil { // an agent that ends decides nothing
			return
		}
		if changed {
			m.reconcile(ctx)
		}
		if due {
			m.wakeDue() // they do not wait for a runtime that is slow
			m.relist(ctx)
		}
		if dusty {
			m.wakeDue()
			m.sweep(ctx)
		}
		changed, due, dusty = false, false, false
		if looks++; looks%maxLooks == 0 {
			m.wakeDue()
		}
	}
}

// maxLooks is after how many changes, without a rest between them, workers are woken.
const maxLooks = 100

// wakeDue wakes the workers that there is news for, once all is decided: two
// wakes for one would have it look twice, or once, by chance.
func (m *Manager) wakeDue() {
	for _, w := range m.list() {
		if w.due {
			w.due = false
			w.wake()
		}
	}
}

// greet asks the runtime who it is, until it answers.
func (m *Manager) greet(ctx context.Context) bool {
	for {
		callCtx, cancel := context.WithTimeout(ctx, observeTimeout)
		v, err := m.config.Runtime.Version(callCtx)
		cancel()
		if err == nil {
			m.version.Store(&v)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		m.config.Logger.Error(err, "runtime does not answer")
		if !m.sleep(ctx, retryRuntime) {
			return false
		}
	}
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	timer := m.config.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// watch follows the runtime's events. When they break off, everybody looks.
func (m *Manager) watch(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := m.config.Runtime.Subscribe(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.config.Logger.V(1).Info("no events from the runtime", "error", err.Error())
			}
			m.sleep(ctx, retryRuntime)
			continue
		}
		m.wakeAll()
		for e := range events {
			m.heard(types.UID(e.PodUID))
		}
	}
}

func (m *Manager) wakeAll() {
	for _, w := range m.list() {
		w.wake()
	}
}

// enlist makes a worker known. It is launched once it has been matched with the
// set and judged, so that it never acts on less.
func (m *Manager) enlist(w *worker) {
	m.mu.Lock()
	m.workers[w.uid] = w
	m.mu.Unlock()
}

func (m *Manager) launch(ctx context.Context) {
	for _, w := range m.list() {
		if w.launched {
			continue
		}
		w.launched, w.due = true, false // its first look sees all that was decided
		m.group.Go(func() {
			if w.run(ctx) {
				select {
				case m.ended <- w:
				case <-ctx.Done():
				}
			}
		})
	}
}

func (m *Manager) remove(w *worker) {
	m.mu.Lock()
	if m.workers[w.uid] == w {
		delete(m.workers, w.uid)
	}
	m.mu.Unlock()
	delete(m.recovered, w.uid)
	m.users.free(w.uid)
	w.mu.Lock()
	revived := w.revived
	w.mu.Unlock()
	if !revived && m.config.OnStatus != nil { // the one that follows has news soon
		m.config.OnStatus(w.snapshot())
	}
}

// relist looks at everything and has the workers woken that missed something.
func (m *Manager) relist(ctx context.Context) {
	if !m.first {
		return
	}
	sandboxes, containers, err := m.listAll(ctx)
	if err != nil {
		m.config.Logger.V(1).Info("relist failed", "error", err.Error())
		return
	}
	bySandbox := map[types.UID][]runtimeiface.Sandbox{}
	for _, s := range sandboxes {
		bySandbox[types.UID(s.UID)] = append(bySandbox[types.UID(s.UID)], s)
	}
	byPod := map[types.UID][]runtimeiface.Container{}
	for _, c := range containers {
		uid := types.UID(c.Labels[LabelPodUID])
		byPod[uid] = append(byPod[uid], c)
	}
	for _, w := range m.list() {
		w.mu.Lock()
		missed := look(w.seen.sandboxes, w.seen.containers) != look(bySandbox[w.uid], byPod[w.uid])
		w.mu.Unlock()
		if missed {
			w.due = true
		}
		delete(bySandbox, w.uid)
	}
	for _, uid := range slices.Sorted(maps.Keys(bySandbox)) {
		// It turned up late, and nobody wants it: reconcile ends it.
		m.adopt(bySandbox[uid][0], containers)
		m.kick()
	}
}

func (m *Manager) listAll(ctx context.Context) ([]runtimeiface.Sandbox, []runtimeiface.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	mine := map[string]string{LabelAgent: m.config.NodeName}
	sandboxes, err := m.config.Runtime.ListSandboxes(ctx, runtimeiface.SandboxFilter{Labels: mine})
	if err != nil {
		return nil, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := m.config.Runtime.ListContainers(ctx, runtimeiface.ContainerFilter{Labels: mine})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	return sandboxes, containers, nil
}

// StopAll ends every pod gracefully and waits until all is gone, or ctx ends.
// No pod starts afterwards. Run must be running.
func (m *Manager) StopAll(ctx context.Context) error {
	if !m.started.Load() {
		return ErrEnded
	}
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	m.kick()
	var err error
	select {
	case <-m.drained:
		return nil
	case <-m.stopped:
		err = ErrEnded
	case <-ctx.Done():
		err = ctx.Err()
	}
	return fmt.Errorf("stop all pods, %d left: %w", len(m.list()), err)
}

// podDir is the pod's directory below Root, which the volumes share.
func (m *Manager) podDir(uid types.UID) string {
	return filepath.Join(m.config.Root, "pods", string(uid))
}
