package probe

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Attempter makes one attempt; *Prober is one.
type Attempter interface {
	Probe(ctx context.Context, target Target, probe *corev1.Probe) (Result, string, error)
}

// Config of a Manager.
type Config struct {
	// Prober makes the attempts; required.
	Prober Attempter
	// Changed is called after each change of a verdict, from the goroutine of the
	// probe, without a lock held; required. It should only wake somebody.
	Changed func(Change)
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Seed of the random first delays.
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
	Time     time.Time
	Duration time.Duration
	// Result is Unknown when the attempt could not be made; Err says why.
	Result Result
	Output string
	Err    string
}

// Status is where one probe stands.
type Status struct {
	Kind Kind
	// Result is the verdict: after thresholds, or seeded.
	Result Result
	// Since is when the verdict became this; zero if it is the initial one.
	Since time.Time
	// Run is how many of the latest attempts agree; Threshold how many it
	// takes for a verdict in their direction.
	Run, Threshold int
	// Attempts, the newest last.
	Attempts []Attempt
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
	// Grace: Terminating ends liveness and startup probes; readiness goes on.
	Terminating bool
	// Containers that run now, all of them.
	Containers []Running
}

// Manager probes the containers of pods. Its methods may be used concurrently.
type Manager struct {
	config Config
}

// New checks config; it starts nothing.
func New(config Config) (*Manager, error) { return &Manager{config: config}, nil }

// Run probes until ctx ends and then gives nil, when the last attempt has ended.
func (m *Manager) Run(ctx context.Context) error { return nil }

// Set says what shall be probed of one pod, whole: probes of containers not in
// it end, and their verdicts are forgotten. It does not block.
func (m *Manager) Set(pod Pod) {}

// Remove ends the pod's probes.
func (m *Manager) Remove(uid types.UID) {}

// Result gives the verdict of one probe of a container instance: before a verdict
// Failure for readiness, Success for liveness, Unknown for startup. ok is
// false if there is no such probe.
func (m *Manager) Result(containerID string, kind Kind) (result Result, ok bool) {
	return Unknown, false
}

// Status gives all probes of a container instance, startup, liveness, readiness in
// this order; nil if there is none.
func (m *Manager) Status(containerID string) []Status { return nil }
