// Package prometheus lets a metrics.Meter be registered with
// github.com/prometheus/client_golang, for programs that already have a
// registry:
//
//	c, err := prometheus.New(prometheus.Config{Meter: meter})
//	if err != nil {
//		return err
//	}
//	registry.MustRegister(c)
//
// It costs client_golang's price, some hundred times that of
// metrics.Meter.WriteCAdvisor: for a node with many containers serve that text
// instead, and register a collector with Config.Own, which has the meter's own
// few counters.
package prometheus
