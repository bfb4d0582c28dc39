package agenttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Line is one line of a container's log.
type Line struct {
	Time time.Time
	Text string
}

// Log reads a container's CRI-format log file. Parts of long lines are joined.
func Log(path string) ([]Line, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lines []Line
	joining := false
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		fields := strings.SplitN(scanner.Text(), " ", 4)
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s: not a CRI log line: %q", path, scanner.Text())
		}
		at, err := time.Parse(time.RFC3339Nano, fields[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if joining {
			lines[len(lines)-1].Text += fields[3]
		} else {
			lines = append(lines, Line{at, fields[3]})
		}
		joining = fields[2] == "P"
	}
	return lines, scanner.Err()
}

// PSS is the proportional share of memory of a process, in bytes.
func PSS(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of %d", pid)
}

// CPUTime is what a process has used, all threads, user and system.
func CPUTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// pid (comm) state ppid ... utime stime: fields 14 and 15, comm may hold spaces.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, err // USER_HZ is 100
}

// Processes gives the PIDs whose command line holds text.
func Processes(text string) ([]int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		data, err := os.ReadFile(entry)
		if err != nil || !strings.Contains(strings.ReplaceAll(string(data), "\x00", " "), text) {
			continue // gone meanwhile, or another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(entry)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Leaks lists what is left of the node's agent: processes, mounts, cgroups,
// links and nftables rules. Empty means clean.
func (n *Node) Leaks() ([]string, error) {
	var found []string
	pids, err := Processes(n.Dir)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.Dir+"/") {
			found = append(found, "mount "+strings.Fields(line)[4])
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		cgroups, err := filepath.Glob(pattern + n.Cgroup)
		if err != nil {
			return nil, err
		}
		for _, path := range cgroups {
			found = append(found, "cgroup "+path)
		}
	}
	err = n.NetNS.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if name := link.Attrs().Name; name != "lo" && name != "eth0" && name != "uplink" {
				found = append(found, "link "+name)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	rules, err := nftables.New(nftables.WithNetNSFd(n.NetNS.FD()))
	if err != nil {
		return nil, err
	}
	tables, err := rules.ListTables()
	for _, table := range tables {
		found = append(found, "nftables table "+table.Name)
	}
	return found, err
}

// Print gives v as indented JSON for failure messages.
func Print(v any) string {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(data)
}
