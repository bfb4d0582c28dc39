package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/burden"
	"github.com/nodekit/nodekit/metrics/machine"
	nodekitprometheus "github.com/nodekit/nodekit/metrics/prometheus"
	"github.com/nodekit/nodekit/metrics/summary"
	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/runtimeiface/crilog"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/statusserver"
)

// targets tells the meter what the manager runs.
type targets struct{ manager *podlifecycle.Manager }

// Targets gives each container, and each pod once.
func (t targets) Targets(context.Context) ([]metrics.Target, error) {
	var all []metrics.Target
	pods := map[string]bool{}
	for _, c := range t.manager.Targets() {
		target := metrics.Target{Namespace: c.Namespace, Pod: c.Pod, PodUID: string(c.UID)}
		if !pods[c.PodCgroup] && c.PodCgroup != "" {
			pods[c.PodCgroup] = true
			pod := target
			pod.Cgroup, pod.PID, pod.HostNetwork = c.PodCgroup, c.PID, c.HostNetwork
			all = append(all, pod)
		}
		if c.Cgroup != "" {
			target.Cgroup, target.Container, target.ID, target.Image = c.Cgroup, c.Container, c.ContainerID, c.Image
			all = append(all, target)
		}
	}
	return all, nil
}

// serve says what is served, to whom: all of it, to this machine.
func serve(o options, node node, runtime *oci.Runtime, manager *podlifecycle.Manager, proxy *proxyrules.Proxy, meter *metrics.Meter,
	stats *summary.Provider, ranking *burden.Ranking, hardware *machine.Machine, screen *screen, logger logr.Logger) statusserver.Config {
	// The machine goes first, for OpenMetrics ends with what ends the other.
	containers := func(write func(context.Context, io.Writer) error) statusserver.MetricsFunc {
		return func(ctx context.Context, w io.Writer) error {
			return errors.Join(hardware.WriteMetrics(ctx, w), write(ctx, w))
		}
	}
	return statusserver.Config{
		Listeners: []statusserver.Listener{{Address: o.listen, Authorizer: statusserver.Every{statusserver.LoopbackOnly{}, statusserver.ReadOnly{}}}},
		NodeName:  node.name,
		UI:        true,
		Pods: statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) {
			list := &corev1.PodList{}
			for _, pod := range manager.Pods() {
				list.Items = append(list.Items, *pod)
			}
			return list, nil
		}),
		Spec:             hardware,
		Stats:            stats,
		MetricsHandler:   ownMetrics(meter),
		ContainerMetrics: containers(meter.WriteCAdvisor),
		ResourceMetrics:  statusserver.MetricsFunc(meter.WriteResource),
		OpenMetrics: map[string]statusserver.MetricsWriter{"/metrics/cadvisor": containers(meter.WriteCAdvisorOpenMetrics),
			"/metrics/resource": statusserver.MetricsFunc(meter.WriteResourceOpenMetrics)},
		Burden: statusserver.BurdenFunc(func(ctx context.Context) (fmt.Stringer, error) { return ranking.Report(ctx) }),
		Logs:   logs{manager},
		Why: statusserver.WhyFunc(func(_ context.Context, namespace, pod string) (fmt.Stringer, error) {
			why, err := manager.Why(namespace, pod)
			return why, notFound(err)
		}),
		Trace: statusserver.TraceFunc(func(_ context.Context, from netip.Addr, to netip.AddrPort, protocol string) (fmt.Stringer, error) {
			if !from.IsValid() { // the node itself
				from = node.primary()
			}
			return proxy.Trace(proxyrules.Packet{From: from, To: to, Protocol: corev1.Protocol(strings.ToUpper(protocol))}), nil
		}),
		Checks: []statusserver.Check{{Name: "runtime", Check: func(ctx context.Context) error { _, err := runtime.Version(ctx); return err }},
			{Name: "proxy", Check: func(context.Context) error { return proxy.Healthy() }, ReadyOnly: true},
			{Name: "pressure", Check: func(context.Context) error { return pressure(manager) }, ReadyOnly: true}},
		OnListen: screen.listening,
		Logger:   logger.WithName("server"),
	}
}

// pressure tells what the node is short of, with --eviction.
func pressure(manager *podlifecycle.Manager) error {
	for _, c := range manager.NodeConditions() {
		if c.Status == corev1.ConditionTrue {
			return fmt.Errorf("%s: %s", c.Type, c.Message)
		}
	}
	return nil
}

// ownMetrics is what the agent says of itself.
func ownMetrics(meter *metrics.Meter) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if own, err := nodekitprometheus.New(nodekitprometheus.Config{Meter: meter, Own: true}); err == nil {
		registry.MustRegister(own)
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// logs reads the logs of the manager's containers.
type logs struct{ manager *podlifecycle.Manager }

// ContainerLogs reads one log as opts ask.
func (l logs) ContainerLogs(ctx context.Context, namespace, pod, container string, opts *corev1.PodLogOptions, stdout, stderr io.Writer) error {
	return notFound(l.manager.Logs(ctx, namespace, pod, container, opts.Previous, l.options(opts), stdout, stderr))
}

func (logs) options(opts *corev1.PodLogOptions) crilog.Options {
	o := crilog.Options{Follow: opts.Follow, TailLines: opts.TailLines, Timestamps: opts.Timestamps, LimitBytes: opts.LimitBytes}
	switch {
	case opts.SinceTime != nil:
		o.Since = opts.SinceTime.Time
	case opts.SinceSeconds != nil:
		o.Since = time.Now().Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	if opts.Stream != nil && *opts.Stream != corev1.LogStreamAll {
		o.Stream = strings.ToLower(*opts.Stream)
	}
	return o
}

// missing is an error that the status server takes for its own ErrNotFound.
type missing struct{ error }

// Is tells so.
func (missing) Is(target error) bool { return target == statusserver.ErrNotFound }

func notFound(err error) error {
	if errors.Is(err, podlifecycle.ErrNotFound) {
		return missing{err}
	}
	return err
}
