package statusserver

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/google/cadvisor/lib/model"
	corev1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Providers are called by many requests at once, must not keep what they are
// given, and must return soon after ctx ends: Run waits for them.

// PodsProvider knows the pods of the node, with their status.
type PodsProvider interface {
	// Pods gives all pods, in the order in which they are to be shown. The
	// server changes nothing in the list.
	Pods(ctx context.Context) (*corev1.PodList, error)
}

// SpecProvider knows the machine.
type SpecProvider interface {
	// MachineInfo gives cAdvisor's picture of the machine: sizes in bytes,
	// frequencies in kHz.
	MachineInfo(ctx context.Context) (*model.MachineInfo, error)
}

// StatsProvider knows what is used.
type StatsProvider interface {
	// Summary gives usage of the node and of each pod; only CPU and memory
	// when so asked, for clients that look often.
	Summary(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error)
}

// MetricsWriter writes metrics in the text format of Prometheus 0.0.4, or in
// OpenMetrics where that is asked for.
type MetricsWriter interface {
	// WriteMetrics may write in pieces, which go out as they come, gathered to
	// 64 KiB. An error before that is answered as one; after it, the connection
	// is cut, so that no scraper takes the half for the whole.
	WriteMetrics(ctx context.Context, w io.Writer) error
}

// BurdenProvider knows who burdens the node.
type BurdenProvider interface {
	// Burden says who burdens the node now. String gives the text for a
	// terminal, json.Marshal what the page shows; see the package comment for
	// the shape. The page asks each second.
	Burden(ctx context.Context) (fmt.Stringer, error)
}

// LogsProvider reads the logs of containers.
type LogsProvider interface {
	// ContainerLogs writes what opts ask for to stdout and stderr, which are
	// one and the same writer. The names and opts are valid by the rules of
	// Kubernetes, but may name nothing that exists: then the error wraps
	// ErrNotFound. Each Write reaches the client at once when opts.Follow is
	// set. At most one of SinceSeconds and SinceTime is set.
	ContainerLogs(ctx context.Context, namespace, pod, container string, opts *corev1.PodLogOptions, stdout, stderr io.Writer) error
}

// WhyProvider explains pods.
type WhyProvider interface {
	// Why says why a pod is as it is. String gives the text for a terminal,
	// json.Marshal what the page shows; see the package comment for the shape.
	// The error wraps ErrNotFound when there is no such pod.
	Why(ctx context.Context, namespace, pod string) (fmt.Stringer, error)
}

// TraceProvider explains packets.
type TraceProvider interface {
	// Trace says what the proxy rules do with a packet of the protocol (tcp,
	// udp or sctp) from an address, invalid for the node itself, to an address
	// and port. String gives the text for a terminal, json.Marshal what the
	// page shows; see the package comment for the shape.
	Trace(ctx context.Context, from netip.Addr, to netip.AddrPort, protocol string) (fmt.Stringer, error)
}

// PodsFunc makes a PodsProvider of a function.
type PodsFunc func(ctx context.Context) (*corev1.PodList, error)

// Pods calls f.
func (f PodsFunc) Pods(ctx context.Context) (*corev1.PodList, error) { return f(ctx) }

// SpecFunc makes a SpecProvider of a function.
type SpecFunc func(ctx context.Context) (*model.MachineInfo, error)

// MachineInfo calls f.
func (f SpecFunc) MachineInfo(ctx context.Context) (*model.MachineInfo, error) { return f(ctx) }

// StatsFunc makes a StatsProvider of a function.
type StatsFunc func(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error)

// Summary calls f.
func (f StatsFunc) Summary(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error) {
	return f(ctx, onlyCPUAndMemory)
}

// MetricsFunc makes a MetricsWriter of a function.
type MetricsFunc func(ctx context.Context, w io.Writer) error

// WriteMetrics calls f.
func (f MetricsFunc) WriteMetrics(ctx context.Context, w io.Writer) error { return f(ctx, w) }

// BurdenFunc makes a BurdenProvider of a function.
type BurdenFunc func(ctx context.Context) (fmt.Stringer, error)

// Burden calls f.
func (f BurdenFunc) Burden(ctx context.Context) (fmt.Stringer, error) { return f(ctx) }

// LogsFunc makes a LogsProvider of a function.
type LogsFunc func(ctx context.Context, namespace, pod, container string, opts *corev1.PodLogOptions, stdout, stderr io.Writer) error

// ContainerLogs calls f.
func (f LogsFunc) ContainerLogs(ctx context.Context, namespace, pod, container string, opts *corev1.PodLogOptions, stdout, stderr io.Writer) error {
	return f(ctx, namespace, pod, container, opts, stdout, stderr)
}

// WhyFunc makes a WhyProvider of a function.
type WhyFunc func(ctx context.Context, namespace, pod string) (fmt.Stringer, error)

// Why calls f.
func (f WhyFunc) Why(ctx context.Context, namespace, pod string) (fmt.Stringer, error) {
	return f(ctx, namespace, pod)
}

// TraceFunc makes a TraceProvider of a function.
type TraceFunc func(ctx context.Context, from netip.Addr, to netip.AddrPort, protocol string) (fmt.Stringer, error)

// Trace calls f.
func (f TraceFunc) Trace(ctx context.Context, from netip.Addr, to netip.AddrPort, protocol string) (fmt.Stringer, error) {
	return f(ctx, from, to, protocol)
}

var (
	_ PodsProvider  = PodsFunc(nil)
	_ SpecProvider  = SpecFunc(nil)
	_ StatsProvider = StatsFunc(nil)
	_ MetricsWriter = MetricsFunc(nil)
	_ LogsProvider  = LogsFunc(nil)
	_ WhyProvider   = WhyFunc(nil)
	_ TraceProvider = TraceFunc(nil)
)
