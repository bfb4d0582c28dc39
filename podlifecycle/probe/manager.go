package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

const defaultHistory = 5

// Attempter makes one attempt; *Prober is one.
type Attempter interface {
	Probe(ctx context.Context, target Target, probe *corev1.Probe) (Result, string, error)
}

// Config of a Manager.
type Config struct {
	// Prober makes the attempts; required.
	Prober Attempter
	// Changed is called after each change of a verdict, from the probe's
	// goroutine and with no lock held; required. It should only wake somebody.
	Changed func(Change)
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Seed of the random first delays: the same seed gives the same container's
	// probe the same delay.
	Seed uint64
	// History is how many attempts are kept of each probe; 0 means 5.
	History int
	// Logger; the zero value discards.
	Logger logr.Logger
}

// Change is a verdict that became another.
type Change struct {
	PodUID      types.UID
	Container   string
	ContainerID string
	Kind        Kind
	Result      Result
	// Output of the attempt that decided.
	Output string
	Time   time.Time
}

// Attempt is one attempt as it was seen.
type Attempt struct {
	Time     time.Time     `json:"time"`
	Duration time.Duration `json:"duration"`
	// Result is Unknown when the attempt could not be made; Err says why.
	Result Result `json:"result"`
	// Output, the first KiB of it.
	Output string `json:"output,omitempty"`
	Err    string `json:"error,omitempty"`
}

// Status is where one probe stands.
type Status struct {
	Kind Kind `json:"kind"`
	// Result is the verdict: after thresholds, or seeded.
	Result Result `json:"result"`
	// Since is when the verdict became this; zero if it is the initial one.
	Since time.Time `json:"since"`
	// Run is how many of the latest attempts agree; Threshold how many it
	// takes for a verdict in their direction.
	Run       int `json:"run"`
	Threshold int `json:"threshold"`
	// Next is when the next attempt is made; zero if none will be, or before the
	// startup probe has passed.
	Next time.Time `json:"next,omitzero"`
	// Attempts, the newest last.
	Attempts []Attempt `json:"attempts,omitempty"`
}

// Running is a container that runs now.
type Running struct {
	// Container is its part of the pod's spec; required.
	Container *corev1.Container
	// ID of this instance; required. Verdicts belong to it.
	ID        string
	StartedAt time.Time
	// Seed are verdicts that an earlier run of the agent had reached for this
	// ID; they count until probes tell otherwise. Read once for each ID.
	Seed map[Kind]Result
}

// Pod is what shall be probed of a pod.
type Pod struct {
	UID types.UID
	// Host is the pod's IP; for the host's network the node's.
	Host string
	// Terminating ends liveness and startup probes; readiness goes on.
	Terminating bool
	// Containers that run now, all of them.
	Containers []Running
}

// Manager probes the containers of pods. Its methods may be used concurrently;
// Run once.
type Manager struct {
	config Config
	// begun is when the agent did: a container older than it was probed before.
	begun time.Time
	wake  chan struct{}

	mu sync.Mutex
	// pods hold their instances by container ID.
	pods map[types.UID]map[string]*instance
	byID map[string]*instance
}

// instance is one container ID.
type instance struct {
	podUID      types.UID
	target      Target // Host changes under Manager.mu
	startedAt   time.Time
	terminating bool
	// started is closed when the startup probe has passed, or if there is none.
	started chan struct{}
	workers []*worker
}

// New checks config; it starts nothing.
func New(config Config) (*Manager, error) {
	var errs []error
	if config.Prober == nil {
		errs = append(errs, errors.New("a Prober is required"))
	}
	if config.Changed == nil {
		errs = append(errs, errors.New("a Changed is required"))
	}
	if config.History < 0 {
		errs = append(errs, errors.New("negative History"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("probe config: %w", errors.Join(errs...))
	}
	if config.History == 0 {
		config.History = defaultHistory
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Manager{config: config, begun: config.Clock.Now(), wake: make(chan struct{}, 1), pods: map[types.UID]map[string]*instance{},
		byID: map[string]*instance{}}, nil
}

// Run probes until ctx ends and then gives nil, when the last attempt has ended.
func (m *Manager) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		m.mu.Lock()
		for _, i := range m.byID {
			for _, w := range i.workers {
				if w.running || w.stopped {
					continue
				}
				workerCtx, cancel := context.WithCancel(ctx)
				w.running, w.cancel = true, cancel
				workers.Go(func() {
					defer cancel()
					m.work(workerCtx, i, w)
				})
			}
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		}
	}
}

// Set says what shall be probed of one pod, whole: probes of containers not in
// it end, and their verdicts are forgotten. It does not block.
func (m *Manager) Set(pod Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.pods[pod.UID]
	next := make(map[string]*instance, len(pod.Containers))
	for _, running := range pod.Containers {
		i := known[running.ID]
		if i == nil {
			i = m.newInstance(pod.UID, running)
		}
		i.target.Host = pod.Host
		if pod.Terminating && !i.terminating {
			i.terminating = true
			for _, w := range i.workers {
				if w.kind != Readiness {
					w.stop()
				}
			}
		}
		next[running.ID] = i
		m.byID[running.ID] = i
	}
	for id, i := range known {
		if next[id] == nil {
			m.forget(id, i)
		}
	}
	m.pods[pod.UID] = next
	if len(next) == 0 {
		delete(m.pods, pod.UID)
	}
	select {
	case m.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Remove ends the pod's probes.
func (m *Manager) Remove(uid types.UID) {
	m.Set(Pod{UID: uid})
}

func (m *Manager) forget(id string, i *instance) {
	for _, w := range i.workers {
		w.stop()
	}
	delete(m.byID, id)
}

func (m *Manager) newInstance(uid types.UID, running Running) *instance {
	container := running.Container.DeepCopy()
	i := &instance{podUID: uid, startedAt: running.StartedAt, started: make(chan struct{}),
		target: Target{ContainerID: running.ID, Container: container}}
	for _, p := range []struct {
		kind    Kind
		probe   *corev1.Probe
		initial Result
	}{{Startup, container.StartupProbe, Unknown}, {Liveness, container.LivenessProbe, Success}, {Readiness, container.ReadinessProbe, Failure}} {
		if p.probe == nil {
			continue
		}
		w := &worker{kind: p.kind, probe: p.probe, result: p.initial}
		if seed := running.Seed[p.kind]; seed != Unknown {
			w.result = seed
		}
		i.workers = append(i.workers, w)
	}
	startup := i.worker(Startup)
	if startup == nil {
		close(i.started)
	} else if startup.result == Success {
		startup.stopped = true
		close(i.started)
	}
	return i
}

func (i *instance) worker(kind Kind) *worker {
	for _, w := range i.workers {
		if w.kind == kind {
			return w
		}
	}
	return nil
}

// Result gives the verdict of one probe of a container instance: before a
// verdict Failure for readiness, Success for liveness, Unknown for startup. ok
// is false if there is no such probe.
func (m *Manager) Result(containerID string, kind Kind) (result Result, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.byID[containerID]; i != nil {
		if w := i.worker(kind); w != nil {
			return w.result, true
		}
	}
	return Unknown, false
}

// Status gives all probes of a container instance, startup, liveness, readiness
// in this order; nil if there is none. The slices are the caller's.
func (m *Manager) Status(containerID string) []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.byID[containerID]
	if i == nil {
		return nil
	}
	var result []Status
	for _, w := range i.workers {
		result = append(result, w.status())
	}
	return result
}
