package proxyhealth

import (
	"net/http"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
)

// figures are what is counted between two looks. They follow Kubernetes
// v1.37.0 pkg/proxy/metrics/metrics.go.
type figures struct {
	families               map[corev1.IPFamily]*familyFigures
	began                  time.Time // of the first record; changes from before are not our delay
	services, slices       uint64
	servicesDue, slicesDue int
	elements               uint64
	repairs                histogram      // seconds from a notice of drift to its repair
	healthz, livez         map[int]uint64 // by code
}

// familyFigures are those of one address family.
type familyFigures struct {
	all, full, partial histogram // seconds of syncs
	programming        histogram // seconds from an endpoint's change to the kernel
	conntrack          histogram // seconds of looks through conntrack
	failures, flows    uint64
}

func newFigures() figures {
	return figures{
		repairs:  newHistogram(exponential(0.001, 2, 15)),
		families: map[corev1.IPFamily]*familyFigures{},
		healthz:  map[int]uint64{http.StatusOK: 0, http.StatusServiceUnavailable: 0},
		livez:    map[int]uint64{http.StatusOK: 0, http.StatusServiceUnavailable: 0},
	}
}

func (f *figures) asked(healthz bool, code int) {
	if healthz {
		f.healthz[code]++
	} else {
		f.livez[code]++
	}
}

// add counts one sync.
func (f *figures) add(r *proxyrules.SyncRecord, families []corev1.IPFamily) {
	if f.began.IsZero() {
		f.began = r.Began
	}
	for _, name := range families {
		family := f.families[name]
		if family == nil {
			family = newFamilyFigures()
			f.families[name] = family
		}
		if r.Err != nil {
			family.failures++
			continue
		}
		took := r.Ended.Sub(r.Began).Seconds()
		family.all.observe(took)
		if r.Stats.Full {
			family.full.observe(took)
		} else {
			family.partial.observe(took)
		}
		for _, at := range r.Triggers {
			if at.After(f.began) {
				family.programming.observe(r.Ended.Sub(at).Seconds())
			}
		}
	}
	if r.Err != nil {
		f.servicesDue, f.slicesDue = r.Services, r.EndpointSlices
		return
	}
	f.services, f.servicesDue = f.services+uint64(r.Services), 0
	f.slices, f.slicesDue = f.slices+uint64(r.EndpointSlices), 0
	f.elements += uint64(r.Stats.Elements)
	if r.Drift != nil {
		f.repairs.observe(r.Drift.Repaired.Sub(r.Drift.Noticed).Seconds())
	}
	f.conntrack(r, families)
}

// conntrack is looked through for all families at once; the first one tells.
func (f *figures) conntrack(r *proxyrules.SyncRecord, families []corev1.IPFamily) {
	if r.Stats.FlowsDuration == 0 || len(families) == 0 {
		return
	}
	family := f.families[families[0]]
	family.conntrack.observe(r.Stats.FlowsDuration.Seconds())
	family.flows += uint64(r.Stats.Flows)
}

func newFamilyFigures() *familyFigures {
	seconds := exponential(0.001, 2, 15)
	programming := linear(0.25, 0.25, 2)
	programming = append(programming, linear(1, 1, 59)...)
	programming = append(programming, linear(60, 5, 12)...)
	programming = append(programming, linear(120, 30, 7)...)
	return &familyFigures{
		all: newHistogram(seconds), full: newHistogram(seconds), partial: newHistogram(seconds),
		programming: newHistogram(programming), conntrack: newHistogram(seconds),
	}
}

// histogram counts values by the least bound that they do not exceed.
type histogram struct {
	bounds []float64
	counts []uint64 // one more than bounds
	sum    float64
}

func newHistogram(bounds []float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(v float64) {
	h.sum += v
	for i, bound := range h.bounds {
		if v <= bound {
			h.counts[i]++
			return
		}
	}
	h.counts[len(h.bounds)]++
}

func exponential(start, factor float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = start
		start *= factor
	}
	return out
}

func linear(start, width float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = start + float64(i)*width
	}
	return out
}
