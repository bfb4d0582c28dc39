// Package cadvisor runs cAdvisor's library in this process as the kubelet does,
// to be compared with.
package cadvisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/google/cadvisor/lib/cache/memory"
	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/manager"
	"github.com/google/cadvisor/lib/metrics"
	"github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Peer is a running cAdvisor that meters cgroups below a parent, and the root.
// It has the settings of Kubernetes v1.37.0 pkg/kubelet/cadvisor and
// pkg/kubelet/server, but that it keeps no house of its own: a round is made
// when it is asked for, so that what it costs can be told from the rest.
type Peer struct {
	manager  manager.Manager
	registry *prometheus.Registry
}

// Start begins to meter; disks says whether it sizes file systems, which the
// kubelet wants of it unless the runtime tells.
func Start(parent string, disks bool) (*Peer, error) {
	quiet := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(quiet)
	if err := quiet.Parse([]string{"-logtostderr=false", "-alsologtostderr=false", "-stderrthreshold=FATAL"}); err != nil {
		return nil, err
	}
	klog.SetOutput(io.Discard)
	never, dynamic := time.Hour, false
	included := container.MetricSet{
		container.CpuUsageMetrics: {}, container.MemoryUsageMetrics: {}, container.DiskIOMetrics: {}, container.NetworkUsageMetrics: {},
		container.ProcessMetrics: {}, container.OOMMetrics: {}, container.PressureMetrics: {},
	}
	if disks {
		included[container.DiskUsageMetrics] = struct{}{}
	}
	if f := flag.Lookup("housekeeping_interval"); f != nil {
		if err := f.Value.Set(never.String()); err != nil {
			return nil, err
		}
	}
	m, err := manager.New(memory.New(2*time.Minute, nil), sysfs.NewRealSysFs(), manager.HousekeepingConfig{Interval: &never, AllowDynamic: &dynamic},
		included, []string{parent}, nil, "", 0)
	if err != nil {
		return nil, fmt.Errorf("cadvisor: %w", err)
	}
	if err := m.Start(); err != nil {
		return nil, fmt.Errorf("cadvisor: %w", err)
	}
	p := &Peer{manager: m, registry: prometheus.NewRegistry()}
	host := provider{m}
	return p, errors.Join(p.registry.Register(metrics.NewPrometheusMachineCollector(host, included)), p.registry.Register(metrics.NewPrometheusCollector(host, labels, included, clock.RealClock{},
		model.RequestOptions{IdType: "name", Count: 1, Recursive: true})))
}

// Close stops it.
func (p *Peer) Close() error { return p.manager.Stop() }

// Round has every container read now, and gives their number.
func (p *Peer) Round() (int, error) {
	var now time.Duration
	all, err := p.manager.GetContainerInfoV2("/", model.RequestOptions{IdType: "name", Count: 1, Recursive: true, MaxAge: &now})
	return len(all), err
}

// Knows tells whether a cgroup is metered with at least one sample.
func (p *Peer) Knows(cgroup string) bool {
	all, err := p.manager.GetContainerInfoV2(cgroup, model.RequestOptions{IdType: "name", Count: 1})
	return err == nil && len(all[cgroup].Stats) > 0
}

// Write writes what it last read as a scrape of the kubelet gets it.
func (p *Peer) Write(_ context.Context, w io.Writer) error {
	families, err := p.registry.Gather()
	if err != nil {
		return err
	}
	encoder := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// labels are those of the kubelet, for containers that no runtime has named.
func labels(c *model.ContainerInfo) map[string]string {
	name := ""
	if len(c.Aliases) > 0 {
		name = c.Aliases[0]
	}
	return map[string]string{"id": c.Name, "name": name, "image": c.Spec.Image, "pod": "", "namespace": "", "container": ""}
}

type provider struct{ manager.Manager }
