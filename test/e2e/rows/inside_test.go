package rows_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

func init() { rows = append(rows, volumes, environment, hostFiles, securityContexts, resources) }

const objects = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: %s, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {key: hidden}
`

// settings puts a ConfigMap and a Secret there.
func (n *node) settings(color string) {
	GinkgoHelper()
	n.write("objects.yaml", strings.ReplaceAll(objects, "%s", color))
}

func volumes(n *node) {
	for name, c := range map[string]struct{ volume, mount, steps, want string }{
		"an emptyDir on disk":               {"emptyDir: {}", "", "write /v/f data ; cat /v/f", "data"},
		"an emptyDir in memory":             {"emptyDir: {medium: Memory, sizeLimit: 1Mi}", "", "write /v/f data ; cat /v/f", "data"},
		"a ConfigMap":                       {"configMap: {name: settings}", "", "cat /v/color ; cat /v/shape", "redround"},
		"items of a ConfigMap":              {"configMap: {name: settings, items: [{key: color, path: a/b}]}", "", "cat /v/a/b ; ls /v", "red..data\n"},
		"an optional one that is not there": {"configMap: {name: nobody, optional: true}", "", "write /tmp/x 1 ; run ls /v/color", "exit 1\n"},
		"a Secret":                          {"secret: {secretName: keys}", "", "cat /v/key", "hidden"},
		"the downward API":                  {"downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}", "", "cat /v/name", "volume"},
		"a projection of several":           {"projected: {sources: [{secret: {name: keys}}, {configMap: {name: settings}}]}", "", "cat /v/key ; cat /v/color", "hiddenred"},
		"one file of a volume":              {"configMap: {name: settings}", ", subPath: color", "cat /v", "red"},
		"a path made of variables":          {"emptyDir: {}", ", subPathExpr: $(WHO)", "write /v/f data ; cat /v/f", "data"},
	} {
		It("has "+name, func() {
			n.settings("red")
			got := n.prints("volume", c.steps, "\n  volumes: [{name: v, "+c.volume+"}]",
				"volumeMounts: [{name: v, mountPath: /v"+c.mount+"}]", "env: [{name: WHO, value: me}]")
			if strings.HasSuffix(c.want, "..data\n") {
				Expect(got).To(HavePrefix("red"))
				Expect(got).To(ContainSubstring("..data\n"))
				return
			}
			Expect(got).To(ContainSubstring(c.want)) // what it said on the other stream may come before or after
		})
	}

	It("sees a ConfigMap change in its volume, all at once, and not in its environment", func() {
		n.settings("red")
		n.apply("change", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v}]")+"]\n  volumes: [{name: v, configMap: {name: settings}}]")
		pod := n.untilReady("change")
		file := filepath.Join(n.dir, "pods", "pods", string(pod.UID), "volumes", "kubernetes.io~configmap", "v", "color")
		Expect(os.ReadFile(file)).To(BeEquivalentTo("red"))
		n.settings("blue")
		Eventually(func() ([]byte, error) { return os.ReadFile(file) }, patience).Should(BeEquivalentTo("blue"))
		Expect(n.pod("change").Status.ContainerStatuses[0].RestartCount).To(BeZero())
	})

	It("waits for a ConfigMap, and says so", func() {
		n.apply("waits", "containers: ["+n.does("app", "cat /v/color ; print ; forever", "volumeMounts: [{name: v, mountPath: /v}]")+"]\n  volumes: [{name: v, configMap: {name: settings}}]")
		Eventually(func() string { return n.tell("waits") }, patience).Should(ContainSubstring("ConfigMap default/settings: not found"))
		n.settings("green")
		n.untilReady("waits")
		Eventually(n.output, patience).WithArguments("waits", "app").Should(Equal("green\n"))
	})

	It("shares what its fsGroup owns", func() {
		got := n.prints("group", "write /v/f data ; run ls /v ; ids", "\n  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 4321}\n  volumes: [{name: v, emptyDir: {}}]",
			"volumeMounts: [{name: v, mountPath: /v}]")
		Expect(got).To(ContainSubstring("exit 0"))
		Expect(got).To(ContainSubstring("1000 1000"))
		Expect(got).To(ContainSubstring("4321"))
	})

	It("has a directory of the node, and cannot write there if it may only read", func() {
		dir := filepath.Join(n.dir, "host")
		Expect(os.Mkdir(dir, 0o777)).To(Succeed())
		DeferCleanup(os.RemoveAll, dir)
		got := n.prints("host", "write /w/f data ; run write /r/f more", "\n  volumes: [{name: v, hostPath: {path: "+dir+", type: Directory}}]",
			"volumeMounts: [{name: v, mountPath: /w}, {name: v, mountPath: /r, readOnly: true}]")
		Expect(got).To(ContainSubstring("exit 1\n"))
		Expect(os.ReadFile(filepath.Join(dir, "f"))).To(BeEquivalentTo("data"))
	})
}

func environment(n *node) {
	It("has the variables that it names, expanded, and those of its Services", func() {
		n.settings("red")
		n.write("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n")
		got := n.prints("env", "env A ; env B ; env C ; env D ; env E ; env F ; env color ; env FRONT_SERVICE_HOST ; print $(A) $$(A)", "",
			`env: [{name: A, value: one}, {name: B, value: $(A)-two}, {name: C, valueFrom: {configMapKeyRef: {name: settings, key: color}}}, `+
				`{name: D, valueFrom: {secretKeyRef: {name: keys, key: key}}}, {name: E, valueFrom: {fieldRef: {fieldPath: "metadata.labels['row']"}}}, `+
				`{name: F, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}]`,
			"envFrom: [{configMapRef: {name: settings}}]", "resources: {limits: {memory: 32Mi}}")
		Expect(strings.Split(got, "\n")).To(Equal([]string{"one", "one-two", "red", "hidden", "yes-it-is", "32", "red", "10.96.0.10", "one $(A)", ""}))
	})

	It("says which variable cannot be had", func() {
		n.apply("lacks", "containers: ["+n.does("app", "forever", "env: [{name: A, valueFrom: {secretKeyRef: {name: nobody, key: key}}}]")+"]")
		pod := n.until("lacks", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(first(g, pod).State.Waiting).NotTo(BeNil())
			g.Expect(first(g, pod).State.Waiting.Reason).To(Equal("CreateContainerConfigError"))
		})
		Expect(pod.Status.ContainerStatuses[0].State.Waiting.Message).To(ContainSubstring("nobody"))
	})
}

func hostFiles(n *node) {
	It("knows its name, its hosts and whom to ask", func() {
		got := n.prints("files", "hostname ; cat /etc/hosts ; cat /etc/resolv.conf", "\n  hostname: me\n  hostAliases: [{ip: 192.0.2.7, hostnames: [other]}]\n"+
			"  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.53], searches: [example.test], options: [{name: ndots, value: \"3\"}]}")
		Expect(got).To(HavePrefix("me\n"))
		Expect(got).To(MatchRegexp(`192\.0\.2\.7\s+other`))
		Expect(got).To(MatchRegexp(`\n[0-9.]+\s+me\n`))
		Expect(got).To(ContainSubstring("nameserver 192.0.2.53\n"))
		Expect(got).To(ContainSubstring("search example.test\n"))
		Expect(got).To(ContainSubstring("options ndots:3\n"))
	})

	It("on the node's network has the node's name and address", func() {
		name, err := os.Hostname()
		Expect(err).NotTo(HaveOccurred())
		n.apply("host-net", "hostNetwork: true\n  containers: ["+n.does("app", "hostname ; forever")+"]")
		Expect(n.untilReady("host-net").Status.PodIP).To(Equal(nodeIP.String()))
		Eventually(n.output, patience).WithArguments("host-net", "app").Should(Equal(name + "\n"))
	})
}

func securityContexts(n *node) {
	for name, c := range map[string]struct{ context, steps, want string }{
		"a user and a group":           {"runAsUser: 1234, runAsGroup: 2345", "ids", "1234 2345"},
		"no capability":                {"capabilities: {drop: [ALL]}", "run chown /tmp 1 1", "exit 1\n"},
		"one capability":               {"capabilities: {drop: [ALL], add: [CHOWN]}", "run chown /work 1 1", "exit 0\n"},
		"no way to more rights":        {"allowPrivilegeEscalation: false", "cat /proc/self/status", "NoNewPrivs:\t1"},
		"a root that it cannot change": {"readOnlyRootFilesystem: true", "run write /tmp/f x", "exit 1\n"},
		"a system call filter":         {"seccompProfile: {type: RuntimeDefault}", "cat /proc/self/status", "Seccomp:\t2"},
		"no filter":                    {"seccompProfile: {type: Unconfined}", "cat /proc/self/status", "Seccomp:\t0"},
		"all that the node has":        {"privileged: true", "run mount /tmp", "exit 0\n"},
	} {
		It("has "+name, func() {
			Expect(n.prints("security", c.steps, "", "securityContext: {"+c.context+"}")).To(ContainSubstring(c.want))
		})
	}

	It("has a system call filter of the node's", func() {
		dir := filepath.Join(n.dir, "seccomp")
		Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(dir, "no-mkdir.json"), []byte(`{"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}`), 0o600)).To(Succeed())
		Expect(n.prints("filter", "write /tmp/f x ; run mkdir /tmp/d", "", "securityContext: {seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}}")).To(ContainSubstring("protocol error"))
	})

	It("whose AppArmor profile the kernel cannot enforce fails, where it has none", func() {
		kernel, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		n.apply("profile", "restartPolicy: Never\n  containers: ["+n.does("app", "cat /proc/self/attr/current", "securityContext: {appArmorProfile: {type: RuntimeDefault}}")+"]")
		if strings.HasPrefix(string(kernel), "Y") {
			n.untilPhase("profile", corev1.PodSucceeded)
			Expect(n.output("profile", "app")).To(ContainSubstring("(enforce)"))
			return
		}
		status := n.untilPhase("profile", corev1.PodFailed).Status
		Expect(status.Reason).To(Equal("AppArmor"))
		Expect(status.Message).To(Equal("Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"))
	})

	It("is not run as root if it said so", func() {
		n.apply("nonroot", "securityContext: {runAsNonRoot: true}\n  containers: ["+n.does("app", "forever")+"]")
		pod := n.until("nonroot", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(first(g, pod).State.Waiting).NotTo(BeNil())
			g.Expect(first(g, pod).State.Waiting.Reason).To(Equal("CreateContainerConfigError"))
		})
		Expect(pod.Status.ContainerStatuses[0].State.Waiting.Message).To(ContainSubstring("root"))
	})

	It("has kernel parameters that are its own", func() {
		Expect(n.prints("sysctl", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "\n  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"123\"}]}")).To(Equal("123\n"))
	})

	It("shares one PID namespace among its containers if it wants to", func() {
		n.apply("pids", "restartPolicy: Never\n  shareProcessNamespace: true\n  containers:\n  - "+n.does("first", "write /tmp/mark x ; forever")+"\n  - "+n.does("second", "ps ; sleep 1s ; ps ; sleep 9s ; ps ; forever"))
		Eventually(n.output, patience).WithArguments("pids", "second").Should(ContainSubstring("write /tmp/mark"))
	})

	It("sees the node's processes if it may", func() {
		Expect(n.prints("host-pid", "ps", "\n  hostPID: true")).To(ContainSubstring("rows.test"))
	})
}

func resources(n *node) {
	It("has the cgroup of its class, with its requests and limits", func() {
		n.apply("limits", "containers: ["+n.does("app", "cat /proc/self/oom_score_adj ; forever", "resources: {requests: {cpu: 100m, memory: 1Gi}, limits: {cpu: 200m, memory: 1Gi}}")+"]")
		pod := n.untilReady("limits")
		read := func(controller, v1, v2 string) string {
			below := n.cgroup + "/pods/burstable/pod" + string(pod.UID) + "/"
			for _, f := range []string{"/sys/fs/cgroup/" + controller + below + v1, "/sys/fs/cgroup" + below + v2} {
				if data, err := os.ReadFile(f); err == nil {
					return strings.TrimSpace(string(data))
				}
			}
			return "no such file"
		}
		Expect(read("memory", "memory.limit_in_bytes", "memory.max")).To(Equal("1073741824"))
		Expect(read("cpu", "cpu.cfs_quota_us", "cpu.max")).To(HavePrefix("20000"))
		Eventually(n.output, patience).WithArguments("limits", "app").Should(Equal("875\n"), "1000 - 1000*1Gi/8Gi")
	})

	for class, c := range map[string]struct {
		resources string
		score     int
	}{
		"Guaranteed": {"resources: {limits: {cpu: 100m, memory: 32Mi}}", -997}, "BestEffort": {"resources: {}", 1000},
	} {
		It("of class "+class+" is spared or not when memory lacks", func() {
			want := c.score
			if !mayLower() {
				want = max(want, ownScore())
			}
			Expect(n.prints("score", "cat /proc/self/oom_score_adj", "", c.resources)).To(Equal(strconv.Itoa(want) + "\n"))
			Expect(n.pod("score").Status.QOSClass).To(BeEquivalentTo(class))
		})
	}

	It("that does not fit the node is told so, and fails", func() {
		n.apply("big", "containers: ["+n.does("app", "forever", "resources: {requests: {cpu: \"100\"}}")+"]")
		// A pod of a file counts as critical: others would make room if they could.
		status := n.untilPhase("big", corev1.PodFailed).Status
		Expect(status.Reason).To(Equal("UnexpectedAdmissionError"))
		Expect(status.Message).To(ContainSubstring("cpu"))
	})
}

func ownScore() (score int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	Expect(err).NotTo(HaveOccurred())
	Expect(fmt.Sscan(string(data), &score)).To(Equal(1))
	return score
}

// mayLower tells whether the node can lower its processes' scores, with
// CAP_SYS_RESOURCE.
func mayLower() bool {
	own := strconv.Itoa(ownScore())
	if os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) != nil {
		return false
	}
	Expect(os.WriteFile("/proc/self/oom_score_adj", []byte(own), 0)).To(Succeed())
	return true
}
