package prometheus

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodekit/nodekit/metrics"
)

// Meter is what a Collector needs of a metrics.Meter.
type Meter interface {
	EachSeries(ctx context.Context, yield func(*metrics.Series)) error
	Stats() metrics.Stats
}

var _ Meter = (*metrics.Meter)(nil)

// Config configures a Collector.
type Config struct {
	// Meter has the series. Required.
	Meter Meter
	// Own collects the meter's own counters (nodekit_metrics_...) in place of
	// those of the containers.
	Own bool
	// Timestamps gives each series of the containers the time of its reading.
	Timestamps bool
	// Timeout is the longest that a collection may wait for a round. 0 means 10 s.
	Timeout time.Duration
}

// Collector is a prometheus.Collector. That of the containers describes
// nothing in advance, so that a registry takes it as unchecked.
type Collector struct{ cfg Config }

var _ prometheus.Collector = (*Collector)(nil)

// New checks cfg.
func New(cfg Config) (*Collector, error) {
	var errs []error
	if cfg.Meter == nil {
		errs = append(errs, errors.New("prometheus: Config.Meter is required"))
	}
	if cfg.Timeout < 0 {
		errs = append(errs, errors.New("prometheus: Config.Timeout is negative"))
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Collector{cfg}, nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	if c.cfg.Own {
		for _, o := range own {
			ch <- o.desc
		}
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	if c.cfg.Own {
		s := c.cfg.Meter.Stats()
		for _, o := range own {
			ch <- prometheus.MustNewConstMetric(o.desc, o.typ, o.get(&s))
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.Timeout)
	defer cancel()
	var desc *prometheus.Desc
	var name string
	var values []string
	err := c.cfg.Meter.EachSeries(ctx, func(s *metrics.Series) {
		values = values[:0]
		for _, l := range s.Labels {
			values = append(values, l.Value)
		}
		if s.Name != name { // all series of a family have the same labels
			names := make([]string, 0, len(s.Labels))
			for _, l := range s.Labels {
				names = append(names, l.Name)
			}
			name, desc = s.Name, prometheus.NewDesc(s.Name, s.Help, names, nil)
		}
		typ := prometheus.GaugeValue
		if s.Counter {
			typ = prometheus.CounterValue
		}
		m, err := prometheus.NewConstMetric(desc, typ, s.Value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		} else if c.cfg.Timestamps && !s.Time.IsZero() {
			m = prometheus.NewMetricWithTimestamp(s.Time, m)
		}
		ch <- m
	})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
}

type ownMetric struct {
	desc *prometheus.Desc
	typ  prometheus.ValueType
	get  func(*metrics.Stats) float64
}

func counter(name, help string, get func(*metrics.Stats) float64) ownMetric {
	return ownMetric{prometheus.NewDesc("nodekit_metrics_"+name, help, nil, nil), prometheus.CounterValue, get}
}

func gauge(name, help string, get func(*metrics.Stats) float64) ownMetric {
	return ownMetric{prometheus.NewDesc("nodekit_metrics_"+name, help, nil, nil), prometheus.GaugeValue, get}
}

var own = []ownMetric{
	counter("rounds_total", "Rounds of sampling.", func(s *metrics.Stats) float64 { return float64(s.Rounds) }),
	counter("rounds_coalesced_total", "Requests for a sample that shared a round of another.", func(s *metrics.Stats) float64 { return float64(s.Coalesced) }),
	counter("glances_total", "Looks at new targets only.", func(s *metrics.Stats) float64 { return float64(s.Glances) }),
	counter("round_seconds_total", "Time that all rounds of sampling took.", func(s *metrics.Stats) float64 { return s.Busy.Seconds() }),
	gauge("last_round_seconds", "Time that the last round of sampling took.", func(s *metrics.Stats) float64 { return s.LastRound.Seconds() }),
	counter("reads_total", "Files of cgroups that were read.", func(s *metrics.Stats) float64 { return float64(s.Reads) }),
	counter("reads_spared_total", "Files of cgroups that were not read, for they cannot have changed.", func(s *metrics.Stats) float64 { return float64(s.Spared) }),
	counter("read_errors_total", "Files that gave no figures though the kernel offers them.", func(s *metrics.Stats) float64 { return float64(s.ReadErrors) }),
	counter("target_errors_total", "Rounds without a new list of targets.", func(s *metrics.Stats) float64 { return float64(s.TargetErrors) }),
	gauge("targets", "Cgroups that are metered.", func(s *metrics.Stats) float64 { return float64(s.Targets) }),
	gauge("targets_gone", "Targets whose cgroup is not there.", func(s *metrics.Stats) float64 { return float64(s.Gone) }),
	gauge("linked_pods", "Pods whose network the last dump of the node's interfaces had.", func(s *metrics.Stats) float64 { return float64(s.Linked) }),
	gauge("descriptors", "Files kept open.", func(s *metrics.Stats) float64 { return float64(s.Descriptors) }),
}
