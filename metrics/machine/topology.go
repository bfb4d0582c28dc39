package machine

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cadvisor/lib/model"
)

const (
	cpuDir  = "/sys/devices/system/cpu"
	nodeDir = "/sys/devices/system/node"
)

// topology lists the NUMA nodes with their cores; a machine without
// /sys/devices/system/node is one node.
func (m *Machine) topology() []model.Node {
	nodes := []model.Node{}
	online := parseList(m.text(cpuDir + "/online"))
	for _, name := range m.list(nodeDir) {
		id, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || !strings.HasPrefix(name, "node") {
			continue
		}
		dir := filepath.Join(nodeDir, name)
		node := model.Node{Id: id, HugePages: m.hugePages(dir + "/hugepages"), Distances: distances(m.text(dir + "/distance"))}
		// "Node 0 MemTotal:       24684084 kB"
		node.Memory, _ = kilobytes(field(m.text(dir+"/meminfo"), fmt.Sprintf("Node %d MemTotal", id)))
		m.cores(&node, parseList(m.text(dir+"/cpulist")), online)
		nodes = append(nodes, node)
	}
	if len(nodes) == 0 {
		node := model.Node{HugePages: m.hugePages("/sys/kernel/mm/hugepages")}
		node.Memory, _, _ = m.memory()
		m.cores(&node, online, online)
		nodes = append(nodes, node)
	}
	return nodes
}

// cores groups the processors of a node by core, and gives each cache to the
// smallest that has it alone: a core, the node, or else the cores that share it.
func (m *Machine) cores(node *model.Node, cpus, online []int) {
	if len(online) > 0 {
		cpus = slices.DeleteFunc(slices.Clone(cpus), func(cpu int) bool { return !slices.Contains(online, cpu) })
	}
	for _, cpu := range cpus {
		dir := fmt.Sprintf("%s/cpu%d", cpuDir, cpu)
		id, socket := cpu, 0
		if n, ok := m.number(dir + "/topology/core_id"); ok {
			id = int(n)
		}
		if n, ok := m.number(dir + "/topology/physical_package_id"); ok {
			socket = int(n)
		}
		at := slices.IndexFunc(node.Cores, func(c model.Core) bool { return c.Id == id && c.SocketID == socket })
		if at < 0 {
			at = len(node.Cores)
			node.Cores = append(node.Cores, model.Core{Id: id, SocketID: socket})
		}
		node.Cores[at].Threads = append(node.Cores[at].Threads, cpu)
	}
	for i := range node.Cores {
		core := &node.Cores[i]
		dir := fmt.Sprintf("%s/cpu%d/cache", cpuDir, core.Threads[0])
		for _, index := range m.list(dir) {
			if !strings.HasPrefix(index, "index") {
				continue
			}
			cache, sharedBy := m.cache(filepath.Join(dir, index))
			switch {
			case subset(sharedBy, core.Threads):
				core.Caches = append(core.Caches, cache)
			case subset(cpus, sharedBy):
				if !slices.Contains(node.Caches, cache) {
					node.Caches = append(node.Caches, cache)
				}
			default:
				core.UncoreCaches = append(core.UncoreCaches, cache)
			}
		}
	}
}

// cache reads a cacheN/indexM directory.
func (m *Machine) cache(dir string) (c model.Cache, sharedBy []int) {
	if n, ok := m.number(dir + "/id"); ok {
		c.Id = int(n)
	}
	if n, ok := m.number(dir + "/level"); ok {
		c.Level = int(n)
	}
	c.Type = m.text(dir + "/type")
	// "48K"
	if kb, ok := strings.CutSuffix(m.text(dir+"/size"), "K"); ok {
		n, _ := strconv.ParseUint(kb, 10, 54)
		c.Size = n * 1024
	}
	return c, parseList(m.text(dir + "/shared_cpu_list"))
}

// subset says whether all of a are in b; nothing is not.
func subset(a, b []int) bool {
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return len(a) > 0
}

// parseList reads the kernel's lists: "0-3,8,10-11". Nil if it is no list.
func parseList(s string) []int {
	const most = 1 << 16
	var list []int
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if isRange && err == nil {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || last < first || len(list)+int(last-first) > most {
			return nil
		}
		for n := first; n <= last; n++ {
			list = append(list, int(n))
		}
	}
	return list
}

// distances reads "10 21".
func distances(s string) []uint64 {
	var list []uint64
	for word := range strings.FieldsSeq(s) {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return nil
		}
		list = append(list, n)
	}
	return list
}
