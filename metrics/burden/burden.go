package burden

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/metrics"
)

// Samples is what a Ranking needs of a metrics.Meter.
type Samples interface {
	Samples(ctx context.Context, maxAge time.Duration) ([]metrics.Sample, error)
}

var _ Samples = (*metrics.Meter)(nil)

// Amount is of CPU, in cores, and memory, in bytes. Nil means unknown, or none
// where it is a limit.
type Amount struct {
	CPU    *float64 `json:"cpu,omitempty"`
	Memory *uint64  `json:"memory,omitempty"`
}

// Config configures a Ranking.
type Config struct {
	// Meter has the samples. Required.
	Meter Samples
	// MaxAge is how old the samples may be. 0 means fresh ones for each report.
	MaxAge time.Duration
	// Most burdens stand in a report; the rest is counted in More. 0 means 50,
	// negative means all.
	Most int
	// Cores are those of the node. 0 means the processors that this process may use.
	Cores float64
	// ReservedCPU, in cores, and ReservedMemory, in bytes, are not for pods:
	// allocatable is what the node has less of them.
	ReservedCPU    float64
	ReservedMemory uint64
	// Requests tells what the pod of a target, or a system container, has
	// requested; what it leaves nil is read off the cgroup. Nil means all is.
	Requests func(metrics.Target) Amount
}

// Ranking gives reports. It is safe for concurrent use.
type Ranking struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Ranking, error) {
	var errs []error
	if cfg.Meter == nil {
		errs = append(errs, errors.New("burden: Config.Meter is required"))
	}
	if cfg.MaxAge < 0 {
		errs = append(errs, fmt.Errorf("burden: Config.MaxAge is negative: %s", cfg.MaxAge))
	}
	if cfg.Cores < 0 || cfg.ReservedCPU < 0 {
		errs = append(errs, errors.New("burden: Config.Cores and ReservedCPU must not be negative"))
	}
	if cfg.Most == 0 {
		cfg.Most = 50
	}
	if cfg.Cores == 0 {
		cfg.Cores = processors()
	}
	if cfg.ReservedCPU > cfg.Cores {
		errs = append(errs, fmt.Errorf("burden: Config.ReservedCPU is more than the node has: %g of %g cores", cfg.ReservedCPU, cfg.Cores))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Ranking{cfg}, nil
}

// Pressure is the part of the last ten seconds in which some task waited, 0 to
// 1; nil where the kernel does not tell.
type Pressure struct {
	CPU    *float64 `json:"cpu,omitempty"`
	Memory *float64 `json:"memory,omitempty"`
	IO     *float64 `json:"io,omitempty"`
}

// Report is the node and who burdens it.
type Report struct {
	// Time is when the node's CPU was read.
	Time time.Time `json:"time"`
	// Capacity is what the node has, Allocatable what of it is for pods.
	Capacity    Amount `json:"capacity"`
	Allocatable Amount `json:"allocatable"`
	// Requested and Limits are the sums of what is known of pods.
	Requested Amount `json:"requested"`
	Limits    Amount `json:"limits"`
	// Used by all; memory is the working set.
	Used     Amount   `json:"used"`
	Pressure Pressure `json:"pressure"`
	// Burdens are sorted by Share, the largest first, then by name.
	Burdens []Burden `json:"burdens"`
	// More burdens were left out.
	More int `json:"more,omitempty"`
}

// Burden is what one pod, or one system container, asks of the node.
type Burden struct {
	// Name is namespace/name of a pod, the container's of another target, or
	// its cgroup.
	Name   string `json:"name"`
	Cgroup string `json:"cgroup"`
	Pod    bool   `json:"pod"`
	// Share is the larger part of the node's capacity that is used, of CPU or
	// memory, 0 to 1; 0 while nothing is known.
	Share     float64  `json:"share"`
	Used      Amount   `json:"used"`
	Requested Amount   `json:"requested"`
	Limit     Amount   `json:"limit"`
	Pressure  Pressure `json:"pressure"`
	// Reasons say what is remarkable, in words; empty for nothing.
	Reasons []string `json:"reasons,omitempty"`
}

// Report looks at the node now.
func (r *Ranking) Report(ctx context.Context) (*Report, error) {
	samples, err := r.cfg.Meter.Samples(ctx, r.cfg.MaxAge)
	if err != nil {
		return nil, err
	}
	if len(samples) == 0 {
		return nil, errors.New("report burdens: the meter has no sample of the node")
	}
	node := &samples[0]
	report := &Report{Time: node.Time(metrics.CPUUsage), Used: used(node), Pressure: pressure(node), Burdens: []Burden{}}
	report.Capacity.CPU = ptr(r.cfg.Cores)
	report.Allocatable.CPU = ptr(r.cfg.Cores - r.cfg.ReservedCPU)
	if memory, ok := node.Get(metrics.LimitMemory); ok {
		report.Capacity.Memory = &memory
		report.Allocatable.Memory = ptr(memory - min(memory, r.cfg.ReservedMemory))
	}
	for _, s := range leaves(samples[1:]) {
		report.Burdens = append(report.Burdens, r.burden(s, &report.Capacity))
	}
	for i := range report.Burdens {
		if b := &report.Burdens[i]; b.Pod {
			report.Requested.add(b.Requested)
			report.Limits.add(b.Limit)
		}
	}
	slices.SortFunc(report.Burdens, func(a, b Burden) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), strings.Compare(a.Name, b.Name), strings.Compare(a.Cgroup, b.Cgroup))
	})
	if more := len(report.Burdens) - r.cfg.Most; r.cfg.Most > 0 && more > 0 {
		report.Burdens, report.More = report.Burdens[:r.cfg.Most:r.cfg.Most], more
	}
	return report, nil
}

// leaves are the pods, and the others that have no target below them. What is
// gone burdens nobody.
func leaves(samples []metrics.Sample) []*metrics.Sample {
	parents := map[string]bool{}
	podCgroups := map[string]bool{}
	for i := range samples {
		t := &samples[i].Target
		if t.Pod != "" && t.Container == "" && !t.Sandbox() && !samples[i].Gone {
			podCgroups[t.PodUID] = true
		}
		for at := strings.LastIndexByte(t.Cgroup, '/'); at > 0; at = strings.LastIndexByte(t.Cgroup[:at], '/') {
			if samples[i].Gone || parents[t.Cgroup[:at]] {
				break
			}
			parents[t.Cgroup[:at]] = true
		}
	}
	var list []*metrics.Sample
	for i := range samples {
		s := &samples[i]
		t := &s.Target
		switch {
		case s.Gone:
		case t.Pod == "" && parents[t.Cgroup]:
		case (t.Container != "" || t.Sandbox()) && podCgroups[t.PodUID] && t.Pod != "":
		default:
			list = append(list, s)
		}
	}
	return list
}

func (r *Ranking) burden(s *metrics.Sample, capacity *Amount) Burden {
	t := &s.Target
	b := Burden{Name: t.Container, Cgroup: t.Cgroup, Pod: t.Pod != "", Used: used(s), Pressure: pressure(s)}
	if b.Pod {
		b.Name = t.Namespace + "/" + t.Pod
		if t.Container != "" {
			b.Name += "/" + t.Container
		}
	}
	if b.Name == "" {
		b.Name = t.Cgroup
	}
	if r.cfg.Requests != nil {
		b.Requested = r.cfg.Requests(*t)
	}
	if b.Requested.CPU == nil {
		b.Requested.CPU = requestOf(s)
	}
	b.Limit = limits(s, capacity)
	if b.Used.CPU != nil && *capacity.CPU > 0 {
		b.Share = *b.Used.CPU / *capacity.CPU
	}
	if b.Used.Memory != nil && capacity.Memory != nil && *capacity.Memory > 0 {
		b.Share = max(b.Share, float64(*b.Used.Memory)/float64(*capacity.Memory))
	}
	b.Reasons = reasons(s, &b)
	return b
}

// reasons says what an operator would remark.
func reasons(s *metrics.Sample, b *Burden) []string {
	const near, waits = 0.9, 0.1
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	// Everyone has the least share there is; only who asked for more can be over.
	if q, u := b.Requested.CPU, b.Used.CPU; q != nil && u != nil && *q >= 0.01 && *u > *q {
		say("uses %.2f cores, requested %.2f", *u, *q)
	}
	if q, u := b.Requested.Memory, b.Used.Memory; q != nil && u != nil && *u > *q {
		say("uses %s of memory, requested %s", bytes(*u), bytes(*q))
	}
	if l, u := b.Limit.CPU, b.Used.CPU; l != nil && u != nil && *u > near**l {
		say("at its limit of %.2f cores", *l)
	}
	if l, u := b.Limit.Memory, b.Used.Memory; l != nil && u != nil && float64(*u) > near*float64(*l) {
		say("at its limit of %s of memory", bytes(*l))
	}
	for _, one := range []struct {
		what string
		part *float64
	}{{"CPU", b.Pressure.CPU}, {"memory", b.Pressure.Memory}, {"disks", b.Pressure.IO}} {
		if one.part != nil && *one.part > waits {
			say("waits for %s %.0f %% of the time", one.what, 100**one.part)
		}
	}
	if n, ok := s.Get(metrics.OOMKills); ok && n > 0 {
		say("kills for want of memory: %d", n)
	}
	return list
}

func (a *Amount) add(b Amount) {
	if b.CPU != nil {
		sum := *b.CPU
		if a.CPU != nil {
			sum += *a.CPU
		}
		a.CPU = &sum
	}
	if b.Memory != nil {
		sum := *b.Memory
		if a.Memory != nil {
			sum += *a.Memory
		}
		a.Memory = &sum
	}
}

func ptr[T any](v T) *T { return &v }
