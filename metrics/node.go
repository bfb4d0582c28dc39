package metrics

import (
	"os"
	"strings"
	"time"
)

// nodeFiles are the parsers of the node's own files.
type nodeFiles struct {
	meminfo *keyed
	sources []nodeSource
	route   string // interface of the default route
}

// nodeSource is a file below /proc.
type nodeSource struct {
	name  string
	group group
	parse func(r *reader, text []byte, into *Sample) error
}

func newNodeFiles() nodeFiles {
	const kB = 1024
	// Sums are made of these, so they are read into fields of their own first.
	n := nodeFiles{meminfo: newKeyed(
		key{"MemTotal:", LimitMemory, kB, true},
		key{"MemFree:", MemoryUsage, kB, true},
		key{"Cached:", MemoryCache, kB, true},
		key{"AnonPages:", MemoryRSS, kB, true},
		key{"Mapped:", MemoryMappedFile, kB, true},
		key{"SwapTotal:", LimitSwap, kB, true},
		key{"SwapFree:", MemorySwap, kB, true},
		key{"Active(file):", MemoryActiveFile, kB, true},
		key{"Inactive(file):", MemoryInactiveFile, kB, true},
		key{"Dirty:", MemoryDirty, kB, true},
		key{"Writeback:", MemoryWriteback, kB, true},
	)}
	psi := func(first Field) func(*reader, []byte, *Sample) error {
		return func(_ *reader, text []byte, into *Sample) error {
			return parsePressure(text, first, &into.figures)
		}
	}
	limit := func(_ *reader, text []byte, into *Sample) error {
		v, err := parseSingle(text)
		if err != nil {
			return err
		}
		if old, ok := into.Get(LimitThreads); !ok || v < old {
			into.set(LimitThreads, v)
		}
		return nil
	}
	n.sources = []nodeSource{
		{"meminfo", groupMemory, (*reader).nodeMemory},
		{"loadavg", groupPids, func(_ *reader, text []byte, into *Sample) error {
			v, err := parseLoadavg(text)
			if err == nil {
				into.set(Threads, v)
			}
			return err
		}},
		{"diskstats", groupIO, (*reader).nodeDisks},
		{"thread-self/net/dev", groupNetwork, func(r *reader, text []byte, into *Sample) (err error) {
			into.Interfaces, err = parseNetDev(text, into.Interfaces, r.names)
			if err != nil {
				into.Interfaces = into.Interfaces[:0]
				return err
			}
			into.DefaultInterface = r.node.route
			sumNetwork(into.Interfaces, r.node.route, &into.figures)
			return nil
		}},
		{"pressure/cpu", groupPressure, psi(CPUSomeTotal)},
		{"pressure/memory", groupPressure, psi(MemorySomeTotal)},
		{"pressure/io", groupPressure, psi(IOSomeTotal)},
		{"sys/kernel/pid_max", groupLimits, limit},
		{"sys/kernel/threads-max", groupLimits, limit},
	}
	return n
}

// sampleNode reads the wanted groups of the node: CPU from the root cgroup,
// the rest from /proc, for the root cgroup of v2 lacks most of it.
func (r *reader) sampleNode(h *handle, s *Sample, want groupSet) {
	r.begin(s, want)
	r.noSwap = false
	if want.has(groupIO) {
		s.Devices = s.Devices[:0]
	}
	if want.has(groupLimits) {
		if err := r.refreshDisks(); err != nil {
			s.Gaps = append(s.Gaps, Gap{File: "block", Err: err, group: groupLimits})
		}
		if err := r.filesystems(s); err != nil {
			s.Gaps = append(s.Gaps, Gap{File: "mountinfo", Err: err, group: groupLimits})
		}
		if err := r.nodePages(s); err != nil {
			s.Gaps = append(s.Gaps, Gap{File: "hugepages", Err: err, group: groupLimits})
		}
	}
	if want.has(groupNetwork) && want.has(groupLimits) {
		if text, err := r.read(r.join(r.proc, "thread-self/net/route"), nil, true); err == nil {
			r.node.route = parseRoute(text, r.names)
		}
	}
	var dropped groupSet
	tell := func(file string, g group, err error, required bool) {
		s.Gaps = append(s.Gaps, Gap{File: file, Err: err, group: g})
		if required {
			dropped |= 1 << g
		}
	}
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		if src.group != groupCPU || !want.has(groupCPU) {
			continue
		}
		var fd *int32
		if i < r.keepable() {
			fd = &h.fds[i]
		}
		if r.spare(src, h, s, fd != nil && *fd >= 0) {
			continue
		}
		if err := r.source(src, "", h, fd, s); err != nil {
			tell(src.name, groupCPU, err, src.required)
		}
	}
	for i := range r.node.sources {
		src := &r.node.sources[i]
		if !want.has(src.group) {
			continue
		}
		text, err := r.read(r.join(r.proc, src.name), nil, true)
		if err == nil {
			if s.at[src.group].IsZero() {
				s.at[src.group] = r.now()
			}
			err = src.parse(r, text, s)
		}
		if err != nil {
			tell(src.name, src.group, err, false)
		}
	}
	r.finish(s, dropped)
}

// nodeMemory turns totals and frees into usage.
func (r *reader) nodeMemory(text []byte, into *Sample) error {
	if err := r.node.meminfo.parse(text, &into.figures); err != nil {
		return err
	}
	v := &into.value
	v[MemoryUsage] = v[LimitMemory] - min(v[LimitMemory], v[MemoryUsage])
	v[MemorySwap] = v[LimitSwap] - min(v[LimitSwap], v[MemorySwap])
	r.noSwap = v[LimitSwap] == 0
	return nil
}

// nodeDisks takes the whole disks, and learns the names of all devices.
func (r *reader) nodeDisks(text []byte, into *Sample) error {
	var total Device
	for len(text) > 0 {
		d, rest, err := cutDisk(text)
		if err != nil {
			into.Devices = into.Devices[:0]
			return err
		}
		text = rest
		at := uint64(d.device.Major)<<32 | uint64(d.device.Minor)
		if name, ok := r.deviceOf[at]; !ok || name[len("/dev/"):] != string(d.name) {
			r.deviceOf[at] = "/dev/" + string(d.name)
		}
		counts, whole := r.disks[string(d.name)]
		if !whole || d.device.count[OpRead]+d.device.count[OpWrite] == 0 {
			continue
		}
		into.Devices = append(into.Devices, d.device)
		if counts {
			total.bytes[OpRead] += d.device.bytes[OpRead]
			total.bytes[OpWrite] += d.device.bytes[OpWrite]
			total.count[OpRead] += d.device.count[OpRead]
			total.count[OpWrite] += d.device.count[OpWrite]
		}
	}
	into.set(IOReadBytes, total.bytes[OpRead])
	into.set(IOWriteBytes, total.bytes[OpWrite])
	into.set(IOReads, total.count[OpRead])
	into.set(IOWrites, total.count[OpWrite])
	return nil
}

// refreshDisks learns which devices are whole disks. Those made of others
// (dm, md) are listed but do not count twice in sums.
func (r *reader) refreshDisks() error {
	entries, err := os.ReadDir(r.sys + "/block")
	if err != nil {
		return err
	}
	clear(r.disks)
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") {
			continue
		}
		r.disks[name] = !strings.HasPrefix(name, "dm-") && !strings.HasPrefix(name, "md")
	}
	return nil
}

// bootTime finds the line "btime 1795225000" of /proc/stat.
func bootTime(text []byte) time.Time {
	for len(text) > 0 {
		line, rest, ok := cutLine(text)
		if !ok {
			break
		}
		text = rest
		word, tail := cutWord(line)
		if n, ok := parseUint(tail); ok && string(word) == "btime" && n < 1<<40 {
			return time.Unix(int64(n), 0)
		}
	}
	return time.Time{}
}
