package probe

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Kind is which of a container's probes is meant.
type Kind string

// Kinds of probes.
const (
	Startup   Kind = "startup"
	Liveness  Kind = "liveness"
	Readiness Kind = "readiness"
)

// Result is a verdict.
type Result string

// Verdicts. Unknown stands before the first attempt's result.
const (
	Unknown Result = ""
	Success Result = "success"
	Failure Result = "failure"
)

// Execer runs commands in containers; runtimeiface.Streams is one.
type Execer interface {
	Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (exitCode int, err error)
}

// Target is what a probe is aimed at.
type Target struct {
	// ContainerID, for exec.
	ContainerID string
	// Container gives the ports that a probe names, and the environment for
	// nothing else; required for named ports.
	Container *corev1.Container
	// Host is the pod's IP, for probes that name no host.
	Host string
}

// ProberConfig of a Prober.
type ProberConfig struct {
	// Exec may be nil; then exec probes give an error.
	Exec Execer
	// UserAgent of HTTP probes; "" means kube-probe/1.37.
	UserAgent string
}

// Prober makes single attempts. It keeps no state and may be used concurrently.
type Prober struct {
	config ProberConfig
}

// NewProber checks config.
func NewProber(config ProberConfig) (*Prober, error) { return &Prober{config: config}, nil }

// Probe makes one attempt, within the probe's timeout, and gives the verdict
// with what was seen (at most 10 KiB). An error means that the attempt could
// not be made and is no verdict; Result is then Unknown.
func (p *Prober) Probe(ctx context.Context, target Target, probe *corev1.Probe) (Result, string, error) {
	return Unknown, "", nil
}
