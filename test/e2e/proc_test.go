package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// processes finds those of this node's containers that run program with arg.
func (n *node) processes(program, arg string) []int {
	GinkgoHelper()
	all, err := os.ReadDir("/proc")
	Expect(err).NotTo(HaveOccurred())
	var pids []int
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		command, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		cgroup, _ := os.ReadFile("/proc/" + entry.Name() + "/cgroup")
		if strings.HasPrefix(string(command), program+"\x00"+arg+"\x00") && strings.Contains(string(cgroup), n.Cgroup+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func cmdline(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(text), "\x00", " ")
}

func alive(pid int) bool { return cmdline(pid) != "" }

func owner(path string) int {
	GinkgoHelper()
	info, err := os.Stat(path)
	Expect(err).NotTo(HaveOccurred())
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// memoryLimit and quota are those of the process's cgroup, or of one beside.
func memoryLimit(pid int, way ...string) int64 {
	GinkgoHelper()
	text := cgroupValue(pid, "memory", way, "memory.limit_in_bytes", "memory.max")
	limit, err := strconv.ParseInt(text, 10, 64)
	Expect(err).NotTo(HaveOccurred())
	return limit
}

func quota(pid int, way ...string) string {
	GinkgoHelper()
	return cgroupValue(pid, "cpu", way, "cpu.cfs_quota_us", "cpu.max")
}

// cgroupValue reads the first of files, v1's or v2's, that is there.
//
//	7:cpu,cpuacct:/kubepods/pod1/c
//	0::/kubepods/pod1/c
func cgroupValue(pid int, controller string, way []string, files ...string) string {
	GinkgoHelper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	Expect(err).NotTo(HaveOccurred())
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		fields := strings.SplitN(line, ":", 3)
		for _, root := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
			if fields[1] != "" && !strings.Contains(","+fields[1]+",", ","+controller+",") {
				continue
			}
			for _, file := range files {
				path := filepath.Join(append(append([]string{root, fields[2]}, way...), file)...)
				if value, err := os.ReadFile(path); err == nil {
					return strings.TrimSpace(string(value))
				}
			}
		}
	}
	Fail(fmt.Sprintf("none of %q for process %d:\n%s", files, pid, text))
	return ""
}
