package proxyhealth

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
)

// exposition writes Prometheus' text format 0.0.4.
type exposition struct{ strings.Builder }

func (e *exposition) head(name, kind, help string) {
	e.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

// series writes one value; labels are pairs of names and values.
func (e *exposition) series(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		e.WriteByte(separator)
		e.WriteString(labels[i] + "=" + strconv.Quote(labels[i+1]))
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	e.WriteString(" " + number(value) + "\n")
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func (e *exposition) histogram(name string, h *histogram, labels ...string) {
	var sum uint64
	for i, bound := range h.bounds {
		sum += h.counts[i]
		e.series(name+"_bucket", float64(sum), append(slices.Clone(labels), "le", number(bound))...)
	}
	sum += h.counts[len(h.bounds)]
	e.series(name+"_bucket", float64(sum), append(slices.Clone(labels), "le", "+Inf")...)
	e.series(name+"_sum", h.sum, labels...)
	e.series(name+"_count", float64(sum), labels...)
}

// metrics are all figures as text, sorted by name.
func (s *Server) metrics() []byte {
	status, table := s.config.Proxy.Status(), s.config.Proxy.Table()
	var e exposition
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.figures
	of := slices.Sorted(maps.Keys(f.families))
	// each writes a figure of each family.
	each := func(name, kind, help string, value func(*familyFigures) float64) {
		e.head(name, kind, help)
		for _, family := range of {
			e.series(name, value(f.families[family]), "ip_family", string(family))
		}
	}
	histograms := func(name, help string, h func(*familyFigures) *histogram) {
		e.head(name, "histogram", help)
		for _, family := range of {
			e.histogram(name, h(f.families[family]), "ip_family", string(family))
		}
	}
	one := func(name, kind, help string, value float64) {
		e.head(name, kind, help)
		e.series(name, value)
	}
	codes := func(name, help string, counts map[int]uint64) {
		e.head(name, "counter", help)
		for _, code := range slices.Sorted(maps.Keys(counts)) {
			e.series(name, float64(counts[code]), "code", strconv.Itoa(code))
		}
	}
	const p = "kubeproxy_"
	each(p+"conntrack_reconciler_deleted_entries_total", "counter", "UDP flows deleted since their endpoint had left.",
		func(f *familyFigures) float64 { return float64(f.flows) })
	histograms(p+"conntrack_reconciler_sync_duration_seconds", "Time of one look through conntrack.",
		func(f *familyFigures) *histogram { return &f.conntrack })
	histograms(p+"network_programming_duration_seconds", "Time from the change of an EndpointSlice to rules in the kernel.",
		func(f *familyFigures) *histogram { return &f.programming })
	codes(p+"proxy_healthz_total", "Answers of /healthz by HTTP status.", f.healthz)
	codes(p+"proxy_livez_total", "Answers of /livez by HTTP status.", f.livez)
	histograms(p+"sync_full_proxy_rules_duration_seconds", "Time of syncs that read all rules from the kernel.",
		func(f *familyFigures) *histogram { return &f.full })
	histograms(p+"sync_partial_proxy_rules_duration_seconds", "Time of syncs that wrote differences only.",
		func(f *familyFigures) *histogram { return &f.partial })
	histograms(p+"sync_proxy_rules_duration_seconds", "Time of syncs of rules.",
		func(f *familyFigures) *histogram { return &f.all })
	one(p+"sync_proxy_rules_endpoint_changes_pending", "gauge", "EndpointSlices whose change is not in the kernel yet.", float64(f.slicesDue))
	one(p+"sync_proxy_rules_endpoint_changes_total", "counter", "Changes of EndpointSlices.", float64(f.slices))
	times := func(name, help string, at time.Time) {
		each(name, "gauge", help, func(*familyFigures) float64 { return seconds(at) })
	}
	times(p+"sync_proxy_rules_last_queued_timestamp_seconds", "When a sync of rules was last asked for.", status.Queued)
	times(p+"sync_proxy_rules_last_timestamp_seconds", "When a sync of rules last worked.", status.Synced)
	one(p+"sync_proxy_rules_nftables_cleanup_failures_total", "counter", "Removals of all rules that failed.", float64(status.CleanupFailures))
	each(p+"sync_proxy_rules_nftables_sync_failures_total", "counter", "Syncs of rules that failed.",
		func(f *familyFigures) float64 { return float64(f.failures) })
	e.noLocalEndpoints(p+"sync_proxy_rules_no_local_endpoints_total", of, table)
	one(p+"sync_proxy_rules_service_changes_pending", "gauge", "Services whose change is not in the kernel yet.", float64(f.servicesDue))
	one(p+"sync_proxy_rules_service_changes_total", "counter", "Changes of Services.", float64(f.services))
	const repair = "nodekit_proxyrules_drift_repair_seconds"
	e.head(repair, "histogram", "Time from the notice that another program changed our rules to their repair.")
	e.histogram(repair, &f.repairs)
	one("nodekit_proxyrules_drifts_total", "counter", "Changes of our rules by other programs that were repaired.", float64(status.Drifts))
	one("nodekit_proxyrules_elements_changed_total", "counter", "Set elements added to the kernel and removed.", float64(f.elements))
	one("nodekit_proxyrules_fronts", "gauge", "Addresses, protocols and ports at which a Service stands.", float64(status.Fronts))
	one("nodekit_proxyrules_problems", "gauge", "Things that could not be done as a Service asks.", float64(len(status.Problems)))
	return []byte(e.String())
}

// noLocalEndpoints counts the ports of Services that have endpoints, but for a
// policy of Local none on this node.
func (e *exposition) noLocalEndpoints(name string, families []corev1.IPFamily, table *proxyrules.Table) {
	type port struct {
		service, name string
		protocol      corev1.Protocol
	}
	e.head(name, "gauge", "Ports of Services with a Local policy and no endpoint on this node.")
	for _, family := range families {
		if table == nil {
			break // removed
		}
		ports := map[bool]map[port]bool{true: {}, false: {}} // internal
		for front := range table.Fronts() {
			if front.Addr.Is4() == (family == corev1.IPv4Protocol) && front.Action == proxyrules.Drop {
				ports[front.Kind == proxyrules.ClusterIP][port{front.Service, front.PortName, front.Protocol}] = true
			}
		}
		e.series(name, float64(len(ports[false])), "ip_family", string(family), "traffic_policy", "external")
		e.series(name, float64(len(ports[true])), "ip_family", string(family), "traffic_policy", "internal")
	}
}

func seconds(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.UnixNano()) / 1e9
}
