package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("fields of a pod", func() {
	It("reach its processes: environment, mounts, names, kernel parameters", func() {
		n := newNode()
		n.start()
		Expect(n.Write("rich.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rich"},
"spec": {"terminationGracePeriodSeconds": 1, "hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true,
  "volumes": [{"name": "data"}], "resources": {"limits": {"cpu": "300m", "memory": "96Mi"}},
  "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 30000"}]},
  "initContainers": [{"name": "note", "image": "localhost:5010/demo:1", "args": ["note", "/data/vars", "LEVEL='debug mode'"],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
  "containers": [{"name": "main", "image": "localhost:5010/demo:1", "args": ["clock", "/logs/clock"],
    "env": [{"name": "LEVEL", "valueFrom": {"fileKeyRef": {"volumeName": "data", "path": "vars", "key": "LEVEL"}}},
      {"name": "NONE", "valueFrom": {"fileKeyRef": {"volumeName": "data", "path": "vars", "key": "NONE", "optional": true}}},
      {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
      {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}],
    "volumeMounts": [{"name": "data", "mountPath": "/logs", "subPathExpr": "of-$(POD)"}, {"name": "data", "mountPath": "/fixed", "readOnly": true, "recursiveReadOnly": "Enabled"}]}]}}`)).To(Succeed())
		n.awaitReady("rich")
		pid := n.process("/bin/demo", "clock")
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		Expect(err).NotTo(HaveOccurred())
		variables := strings.Split(string(environ), "\x00")
		Expect(variables).To(ContainElements("LEVEL=debug mode", "POD=rich", "MEMORY=96"))
		Expect(variables).NotTo(ContainElement(HavePrefix("NONE=")))
		Eventually(func() []string {
			files, _ := filepath.Glob(filepath.Join(n.State, "pods", "pods", "*", "volumes", "kubernetes.io~empty-dir", "data", "of-rich", "clock"))
			return files
		}).WithTimeout(time.Minute).Should(HaveLen(1))
		Expect(mountOptions(pid, "/fixed")).To(HavePrefix("ro"))
		Expect(mountOptions(pid, "/logs")).To(HavePrefix("rw"))
		Expect(inside(pid, "--uts", "hostname")).To(Equal("h.sub.default.svc"))
		Expect(inside(pid, "--net", "cat", "/proc/sys/net/ipv4/ip_local_port_range")).To(Equal("20000\t30000"))
		Expect(memoryLimit(pid)).To(Equal(int64(96<<20)), "the pod's limit is each container's")
		Expect(quota(pid, "..")).To(HavePrefix("30000"))
		Expect(mountOptions(pid, "/proc/sys")).To(HavePrefix("ro"), "by default")
	})

	It("tell how it is stopped, and what of /proc it sees", func() {
		n := newNode()
		n.start()
		Expect(n.Write("bare.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"},
"spec": {"terminationGracePeriodSeconds": 20, "hostUsers": false, "os": {"name": "linux"},
  "containers": [{"name": "main", "image": "localhost:5010/demo:1", "args": ["sleep", "bare"], "securityContext": {"procMount": "Unmasked"},
    "lifecycle": {"stopSignal": "SIGQUIT"}},
   {"name": "fails", "image": "localhost:5010/demo:1", "args": ["clock", "/tmp/clock"], "lifecycle": {"stopSignal": "SIGQUIT"},
    "livenessProbe": {"exec": {"command": ["/bin/demo", "check", "/none"]}, "periodSeconds": 1, "failureThreshold": 2}}]}}`)).To(Succeed())
		Eventually(func(g Gomega) {
			list := n.pod("bare").Status.ContainerStatuses
			g.Expect(list).To(HaveLen(2))
			g.Expect(list[1].LastTerminationState.Terminated).To(HaveField("ExitCode", BeEquivalentTo(2)), "what Go does on SIGQUIT")
		}).WithTimeout(time.Minute).Should(Succeed())
		Expect(mountOptions(n.process("/bin/demo", "sleep"), "/proc/sys")).To(BeEmpty())
	})
})

// mountOptions of what is mounted at path for the process, "" if nothing is.
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
func mountOptions(pid int, path string) string {
	GinkgoHelper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	Expect(err).NotTo(HaveOccurred())
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 5 && fields[4] == path {
			return fields[5]
		}
	}
	return ""
}

// inside runs a program in one of the process's namespaces.
func inside(pid int, namespace string, command ...string) string {
	GinkgoHelper()
	out, err := exec.Command("nsenter", append([]string{fmt.Sprintf("--target=%d", pid), namespace}, command...)...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s", out)
	return strings.TrimSpace(string(out))
}
