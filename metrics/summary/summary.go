package summary

import (
	"context"
	"errors"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/metrics"
)

// Samples is what a Provider needs of a metrics.Meter.
type Samples interface {
	Samples(ctx context.Context, maxAge time.Duration) ([]metrics.Sample, error)
}

var _ Samples = (*metrics.Meter)(nil)

// Config configures a Provider.
type Config struct {
	// Meter has the samples. Required.
	Meter Samples
	// NodeName is the node's name. Required.
	NodeName string
	// MaxAge is how old the samples may be. 0 means fresh ones for each call.
	MaxAge time.Duration
	// NodeFS is a path on the file system of the node's own files, shown as
	// node.fs. Empty means none.
	NodeFS string
	// ImageFS is a path on the file system of images and writable layers,
	// shown as node.runtime, and as what is left to the layer of a container, as
	// NodeFS is to its logs. Empty means none.
	ImageFS string
	// Volumes tells of a pod's volumes, in the order to show them; see VolumeAt.
	// It is called for each pod of each Summary with file systems, which waits for
	// it: answer from memory. Nil, and none: the pod has no figures of volumes.
	Volumes func(pod stats.PodReference) []stats.VolumeStats
}

// Provider gives Summaries. It is safe for concurrent use.
type Provider struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Provider, error) {
	var errs []error
	if cfg.Meter == nil {
		errs = append(errs, errors.New("summary: Config.Meter is required"))
	}
	if cfg.NodeName == "" {
		errs = append(errs, errors.New("summary: Config.NodeName is required"))
	}
	if cfg.MaxAge < 0 {
		errs = append(errs, errors.New("summary: Config.MaxAge is negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Provider{cfg}, nil
}

// Summary returns the figures of the node and of all pods with a live cgroup,
// in order of namespace and name. With onlyCPUAndMemory it leaves out network,
// I/O, file systems and processes, as ?only_cpu_and_memory=true does.
func (p *Provider) Summary(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error) {
	samples, err := p.cfg.Meter.Samples(ctx, p.cfg.MaxAge)
	if err != nil {
		return nil, err
	}
	s := &stats.Summary{Node: stats.NodeStats{NodeName: p.cfg.NodeName}, Pods: []stats.PodStats{}}
	if len(samples) == 0 {
		return s, nil
	}
	c := converter{only: onlyCPUAndMemory}
	node := &samples[0]
	c.swap, _ = node.Get(metrics.LimitSwap)
	c.memory, _ = node.Get(metrics.LimitMemory)
	c.node(&s.Node, node)
	if !onlyCPUAndMemory {
		c.nodeFS, c.imageFS = fsStats(p.cfg.NodeFS), fsStats(p.cfg.ImageFS)
		s.Node.Fs = c.nodeFS
		if c.imageFS != nil {
			s.Node.Runtime = &stats.RuntimeStats{ImageFs: c.imageFS, ContainerFs: c.imageFS}
		}
	}
	byUID := map[string]int{}
	for i := range samples[1:] {
		one := &samples[1+i]
		t := &one.Target
		if one.Gone || t.Sandbox() {
			continue
		}
		if t.Pod == "" {
			s.Node.SystemContainers = append(s.Node.SystemContainers, c.container(one))
			continue
		}
		at, ok := byUID[t.PodUID]
		if !ok {
			at = len(s.Pods)
			byUID[t.PodUID] = at
			s.Pods = append(s.Pods, stats.PodStats{
				PodRef:     stats.PodReference{Name: t.Pod, Namespace: t.Namespace, UID: t.PodUID},
				Containers: []stats.ContainerStats{},
			})
		}
		if pod := &s.Pods[at]; t.Container == "" {
			c.pod(pod, one)
		} else {
			c.addContainer(pod, one)
		}
	}
	if !onlyCPUAndMemory {
		for i := range s.Pods {
			c.sum(&s.Pods[i])
			if p.cfg.Volumes != nil {
				s.Pods[i].VolumeStats = slices.Clone(p.cfg.Volumes(s.Pods[i].PodRef))
			}
		}
	}
	return s, nil
}

// converter knows what the figures of all depend on.
type converter struct {
	only            bool
	memory, swap    uint64 // of the node
	nodeFS, imageFS *stats.FsStats
}

func (c *converter) node(n *stats.NodeStats, s *metrics.Sample) {
	n.StartTime = metav1.NewTime(s.Target.StartedAt)
	n.CPU, n.Memory, n.Swap = c.cpu(s), c.mem(s), c.swapOf(s)
	if c.only {
		return
	}
	n.IO, n.Network = ioOf(s), network(s)
	if threads, ok := s.Get(metrics.Threads); ok {
		n.Rlimit = &stats.RlimitStats{Time: metav1.NewTime(s.Time(metrics.Threads)), NumOfRunningProcesses: ptr(int64(threads))}
		if limit, ok := s.Get(metrics.LimitThreads); ok {
			n.Rlimit.MaxPID = ptr(int64(limit))
		}
	}
}

func (c *converter) pod(p *stats.PodStats, s *metrics.Sample) {
	p.StartTime = metav1.NewTime(s.Target.StartedAt)
	p.CPU, p.Memory, p.Swap = c.cpu(s), c.mem(s), c.swapOf(s)
	if !c.only {
		p.IO, p.Network = ioOf(s), network(s)
		p.EphemeralStorage = disk(&s.Written, c.nodeFS) // its own part; sum adds the rest
	}
}

// sum makes the ephemeral storage of a pod of its own part and its containers'
// (Kubernetes v1.37.0 pkg/kubelet/stats/helper.go, calcEphemeralStorage), or
// none if one of them is not known.
func (c *converter) sum(p *stats.PodStats) {
	all := p.EphemeralStorage
	p.EphemeralStorage = nil
	if all == nil {
		return
	}
	for i := range p.Containers {
		for _, part := range []*stats.FsStats{p.Containers[i].Rootfs, p.Containers[i].Logs} {
			if part == nil {
				return
			}
			*all.UsedBytes += *part.UsedBytes
			*all.InodesUsed += *part.InodesUsed
			if part.Time.Before(&all.Time) {
				all.Time = part.Time // as old as its oldest part
			}
		}
	}
	p.EphemeralStorage = all
}

// disk tells of somebody's use of a file system, of which may be unknown.
func disk(used *metrics.DiskUse, of *stats.FsStats) *stats.FsStats {
	if used.At.IsZero() {
		return nil
	}
	f := &stats.FsStats{Time: metav1.NewTime(used.At), UsedBytes: ptr(used.Bytes), InodesUsed: ptr(used.Inodes)}
	if of != nil {
		f.AvailableBytes, f.CapacityBytes, f.InodesFree, f.Inodes = of.AvailableBytes, of.CapacityBytes, of.InodesFree, of.Inodes
	}
	return f
}

// addContainer adds a container, or puts it in the place of the one before its
// restart: samples come in order of their start.
func (c *converter) addContainer(p *stats.PodStats, s *metrics.Sample) {
	one := c.container(s)
	if n := len(p.Containers); n > 0 && p.Containers[n-1].Name == one.Name {
		p.Containers[n-1] = one
	} else {
		p.Containers = append(p.Containers, one)
	}
	if n, ok := s.Get(metrics.Processes); ok && !c.only {
		if p.ProcessStats == nil {
			p.ProcessStats = &stats.ProcessStats{ProcessCount: ptr(uint64(0))}
		}
		*p.ProcessStats.ProcessCount += n
	}
}

func (c *converter) container(s *metrics.Sample) stats.ContainerStats {
	one := stats.ContainerStats{
		Name: s.Target.Container, StartTime: metav1.NewTime(s.Target.StartedAt),
		CPU: c.cpu(s), Memory: c.mem(s), Swap: c.swapOf(s),
	}
	if !c.only {
		one.IO = ioOf(s)
		one.Rootfs, one.Logs = disk(&s.Written, c.imageFS), disk(&s.Logs, c.nodeFS)
	}
	return one
}

func (c *converter) cpu(s *metrics.Sample) *stats.CPUStats {
	usage := get(s, metrics.CPUUsage)
	if usage == nil {
		return nil
	}
	return &stats.CPUStats{
		Time: metav1.NewTime(s.Time(metrics.CPUUsage)), UsageCoreNanoSeconds: usage,
		UsageNanoCores: get(s, metrics.CPURate), PSI: psi(s, metrics.CPUSomeTotal),
	}
}

func (c *converter) mem(s *metrics.Sample) *stats.MemoryStats {
	if _, ok := s.Get(metrics.MemoryUsage); !ok {
		return nil
	}
	m := &stats.MemoryStats{
		Time: metav1.NewTime(s.Time(metrics.MemoryUsage)), UsageBytes: get(s, metrics.MemoryUsage),
		WorkingSetBytes: get(s, metrics.MemoryWorkingSet), RSSBytes: get(s, metrics.MemoryRSS),
		PageFaults: get(s, metrics.PageFaults), MajorPageFaults: get(s, metrics.MajorPageFaults),
		PSI: psi(s, metrics.MemorySomeTotal),
	}
	// A limit above what the node has limits nothing; the kubelet tells no
	// available bytes then.
	limit, ok := s.Get(metrics.LimitMemory)
	if ok && m.WorkingSetBytes != nil && limit <= c.memory {
		m.AvailableBytes = ptr(limit - min(limit, *m.WorkingSetBytes))
	}
	return m
}

func (c *converter) swapOf(s *metrics.Sample) *stats.SwapStats {
	usage := get(s, metrics.MemorySwap)
	if usage == nil {
		return nil
	}
	w := &stats.SwapStats{Time: metav1.NewTime(s.Time(metrics.MemorySwap)), SwapUsageBytes: usage}
	if limit, ok := s.SwapLimit(c.swap); ok {
		w.SwapAvailableBytes = ptr(limit - min(limit, *usage))
	}
	return w
}

func ioOf(s *metrics.Sample) *stats.IOStats {
	p := psi(s, metrics.IOSomeTotal)
	if p == nil {
		return nil
	}
	return &stats.IOStats{Time: metav1.NewTime(s.Time(metrics.IOSomeTotal)), PSI: p}
}

// psi takes the eight fields from first on.
func psi(s *metrics.Sample, first metrics.Field) *stats.PSIStats {
	if _, ok := s.Get(first); !ok {
		return nil
	}
	data := func(f metrics.Field) (d stats.PSIData) {
		const hundredths = 100.0
		d.Total, _ = s.Get(f)
		for i, avg := range []*float64{&d.Avg10, &d.Avg60, &d.Avg300} {
			n, _ := s.Get(f + 1 + metrics.Field(i))
			*avg = float64(n) / hundredths
		}
		return d
	}
	full := metrics.CPUFullTotal - metrics.CPUSomeTotal
	return &stats.PSIStats{Some: data(first), Full: data(first + full)}
}

// network gives the first interface as the main one, as the kubelet gives
// eth0, but for the node that of the default route.
func network(s *metrics.Sample) *stats.NetworkStats {
	if len(s.Interfaces) == 0 {
		return nil
	}
	n := &stats.NetworkStats{Time: metav1.NewTime(s.Time(metrics.NetRxBytes))}
	for i := range s.Interfaces {
		in := &s.Interfaces[i]
		one := stats.InterfaceStats{
			Name: in.Name, RxBytes: ptr(in.RxBytes), RxErrors: ptr(in.RxErrors),
			TxBytes: ptr(in.TxBytes), TxErrors: ptr(in.TxErrors),
		}
		if in.Name == s.DefaultInterface {
			n.InterfaceStats = one
		}
		n.Interfaces = append(n.Interfaces, one)
	}
	if n.Name == "" {
		n.InterfaceStats = n.Interfaces[0]
	}
	return n
}

func get(s *metrics.Sample, f metrics.Field) *uint64 {
	if v, ok := s.Get(f); ok {
		return &v
	}
	return nil
}

func ptr[T any](v T) *T { return &v }
