package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/cadvisor/lib/model"
)

// Config configures a Machine.
type Config struct {
	// Root is put before /proc, /sys and /etc. Empty means nothing.
	Root string
	// Now tells the time. Nil means time.Now.
	Now func() time.Time
}

// Machine reads what the node is made of. It is safe for concurrent use.
type Machine struct{ cfg Config }

// New returns a Machine. It reads nothing.
func New(cfg Config) (*Machine, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Machine{cfg}, nil
}

// MachineInfo reads the machine. What cannot be read is left empty; only a machine
// without /proc/meminfo or processors is an error, and so is a ctx that ends.
func (m *Machine) MachineInfo(ctx context.Context) (*model.MachineInfo, error) {
	info := &model.MachineInfo{
		Timestamp:     m.cfg.Now(),
		CPUVendorID:   m.vendor(),
		CpuFrequency:  m.frequency(),
		MachineID:     m.first("/etc/machine-id", "/var/lib/dbus/machine-id"),
		SystemUUID:    m.first("/sys/class/dmi/id/product_uuid", "/proc/device-tree/system-id", "/proc/device-tree/vm,uuid", "/etc/machine-id"),
		BootID:        m.first("/proc/sys/kernel/random/boot_id"),
		MemoryByType:  map[string]*model.MemoryInfo{},
		HugePages:     m.hugePages("/sys/kernel/mm/hugepages"),
		DiskMap:       m.disks(),
		CloudProvider: model.UnknownProvider,
		InstanceType:  model.UnknownInstance,
		InstanceID:    model.UnNamedInstance,
	}
	var err error
	if info.MemoryCapacity, info.SwapCapacity, err = m.memory(); err != nil {
		return nil, fmt.Errorf("read machine: %w", err)
	}
	info.Topology = m.topology()
	sockets := map[int]bool{}
	for _, node := range info.Topology {
		for _, core := range node.Cores {
			sockets[core.SocketID] = true
			info.NumPhysicalCores++
			info.NumCores += len(core.Threads)
		}
	}
	info.NumSockets = len(sockets)
	if info.NumCores == 0 {
		return nil, errors.New("read machine: no processor is online")
	}
	info.NetworkDevices = m.networkDevices()
	info.Filesystems = m.filesystems()
	return info, ctx.Err()
}

// WriteMetrics writes the machine_ families and cadvisor_version_info that the
// kubelet's /metrics/cadvisor has, with its labels boot_id, machine_id and
// system_uuid, in the Prometheus text format 0.0.4.
func (m *Machine) WriteMetrics(ctx context.Context, w io.Writer) error {
	info, err := m.MachineInfo(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	labels := fmt.Sprintf("{boot_id=%s,machine_id=%s,system_uuid=%s}",
		quote(info.BootID), quote(info.MachineID), quote(info.SystemUUID))
	for _, f := range []struct {
		name, help string
		value      uint64
	}{
		{"machine_cpu_cores", "Number of logical CPU cores.", uint64(info.NumCores)},
		{"machine_cpu_physical_cores", "Number of physical CPU cores.", uint64(info.NumPhysicalCores)},
		{"machine_cpu_sockets", "Number of CPU sockets.", uint64(info.NumSockets)},
		{"machine_memory_bytes", "Amount of memory installed on the machine.", info.MemoryCapacity},
		{"machine_swap_bytes", "Amount of swap memory available on the machine.", info.SwapCapacity},
	} {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s%s %d\n", f.name, f.help, f.name, f.name, labels, f.value)
	}
	fmt.Fprintf(&b, "# HELP cadvisor_version_info A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.\n"+
		"# TYPE cadvisor_version_info gauge\n"+
		"cadvisor_version_info{cadvisorRevision=\"\",cadvisorVersion=\"\",dockerVersion=\"\",kernelVersion=%s,osVersion=%s} 1\n",
		quote(m.first("/proc/sys/kernel/osrelease")), quote(m.osVersion()))
	_, err = io.WriteString(w, b.String())
	return err
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// text reads a small file without the newline at its end; empty for one that
// is not there.
func (m *Machine) text(path string) string {
	b, err := os.ReadFile(filepath.Join("/", m.cfg.Root, path))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n\x00")
}

func (m *Machine) first(paths ...string) string {
	for _, p := range paths {
		if s := m.text(p); s != "" {
			return s
		}
	}
	return ""
}

func (m *Machine) number(path string) (uint64, bool) {
	n, err := strconv.ParseUint(m.text(path), 10, 64)
	return n, err == nil
}

// list returns the names in a directory, sorted by length and then name, so
// that cpu10 is after cpu9.
func (m *Machine) list(dir string) []string {
	entries, err := os.ReadDir(filepath.Join("/", m.cfg.Root, dir))
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.SliceStable(names, func(i, j int) bool {
		if len(names[i]) != len(names[j]) {
			return len(names[i]) < len(names[j])
		}
		return names[i] < names[j]
	})
	return names
}

// field returns what stands after "name :" in text like /proc/cpuinfo.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (m *Machine) vendor() string {
	cpuinfo := m.text("/proc/cpuinfo")
	if v := field(cpuinfo, "vendor_id"); v != "" {
		return v
	}
	return field(cpuinfo, "CPU implementer")
}

// frequency is the highest of the first processor, in kHz.
func (m *Machine) frequency() uint64 {
	if khz, ok := m.number("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); ok {
		return khz
	}
	mhz, err := strconv.ParseFloat(field(m.text("/proc/cpuinfo"), "cpu MHz"), 64)
	if err != nil || mhz < 0 || mhz > 1e6 {
		return 0
	}
	return uint64(mhz * 1000)
}

// osVersion is PRETTY_NAME="..." of /etc/os-release.
func (m *Machine) osVersion() string {
	for line := range strings.Lines(m.first("/etc/os-release", "/usr/lib/os-release")) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// memory returns MemTotal and SwapTotal in bytes.
func (m *Machine) memory() (memory, swap uint64, err error) {
	text := m.text("/proc/meminfo")
	memory, err = kilobytes(field(text, "MemTotal"))
	if err != nil {
		return 0, 0, fmt.Errorf("meminfo: MemTotal: %w", err)
	}
	swap, err = kilobytes(field(text, "SwapTotal"))
	if err != nil {
		return 0, 0, fmt.Errorf("meminfo: SwapTotal: %w", err)
	}
	return memory, swap, nil
}

// kilobytes reads "24684084 kB" as bytes.
func kilobytes(s string) (uint64, error) {
	number, ok := strings.CutSuffix(s, " kB")
	if !ok {
		return 0, fmt.Errorf("%q is not in kB", s)
	}
	n, err := strconv.ParseUint(number, 10, 54)
	return n * 1024, err
}

// hugePages reads a directory of hugepages-2048kB/nr_hugepages.
func (m *Machine) hugePages(dir string) []model.HugePagesInfo {
	pages := []model.HugePagesInfo{}
	for _, name := range m.list(dir) {
		size, ok := strings.CutSuffix(strings.TrimPrefix(name, "hugepages-"), "kB")
		kb, err := strconv.ParseUint(size, 10, 64)
		n, known := m.number(filepath.Join(dir, name, "nr_hugepages"))
		if ok && err == nil && known {
			pages = append(pages, model.HugePagesInfo{PageSize: kb, NumPages: n})
		}
	}
	return pages
}
