// Package rows_test holds the kubelet's behaviour to pods on real containers, by
// the daemonless runtime and by containerd: one spec and more for each thing that
// a pod could notice.
package rows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/examples/quickstart/demoimage"
	"github.com/nodekit/nodekit/internal/containerdtest"
	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	logfiles "github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/podlifecycle/qos"
	"github.com/nodekit/nodekit/podlifecycle/security"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface/cri"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

const (
	demoRegistry = "127.0.0.1:5010"
	nodeName     = "n1"
	patience     = 2 * time.Minute
)

// nodeIP is on the loopback of the tests' own network namespace.
var nodeIP = netip.MustParseAddr("127.0.0.1")

// TestMain runs all in namespaces of its own, which end with it.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("NODEKIT_NEEDS") == "none" {
		os.Exit(m.Run())
	}
	os.Exit(containerdtest.Unshare(m.Run))
}

func TestRows(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Runc, kerneltest.Shim, kerneltest.Overlay, kerneltest.Cgroup, kerneltest.Containerd, kerneltest.CNI)
	RegisterFailHandler(Fail)
	RunSpecs(t, "pods on real containers")
}

// backend is a runtime that agents come and go beside.
type backend struct {
	name  string
	open  func() (podlifecycle.Runtime, func() error, error)
	close func() error
}

var _ = Describe("a pod", func() {
	for name, begin := range map[string]func(*node) *backend{"oci": beginOCI, "cri": beginCRI} {
		Describe("by runtimeiface/"+name, Ordered, ContinueOnFailure, func() {
			n := &node{}
			BeforeAll(func() { n.begin(begin) })
			AfterEach(n.clear)
			for _, row := range rows {
				row(n)
			}
		})
	}
})

// rows are the specs, each of which says what of the node it needs.
var rows []func(*node)

// node is one for all specs of a backend; each takes its pods away.
type node struct {
	*backend
	dir, manifests, cgroup string
	images                 runtimetest.Images

	rt       podlifecycle.Runtime
	manager  *podlifecycle.Manager
	shortage *shortNode
	besides  func() []source.Part // sources beside the directory; nil: there are none
	stop     func()               // ends the agent, not its pods
	reported sync.Map             // name: the last that the agent told of a pod, a *corev1.Pod
}

func (n *node) begin(backend func(*node) *backend) {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "row") // short: a socket's path is at most 107 bytes
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Chmod(dir, 0o711)).To(Succeed())
	n.dir, n.manifests, n.cgroup = dir, filepath.Join(dir, "manifests"), fmt.Sprintf("/nodekit-rows-%d", os.Getpid())
	Expect(os.Mkdir(n.manifests, 0o700)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(nodeResolvConf), 0o600)).To(Succeed())
	n.images = testimage.Serve(GinkgoTB())
	program, err := exec.LookPath("demo")
	Expect(err).NotTo(HaveOccurred(), "make test-e2e builds it")
	demo, err := demoimage.Open(context.Background(), demoRegistry, program)
	Expect(err).NotTo(HaveOccurred())
	n.backend = backend(n)
	DeferCleanup(func() {
		Expect(n.manager.StopAll(context.Background())).To(Succeed())
		n.stop()
		Expect(n.close()).To(Succeed())
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			left, _ := filepath.Glob(pattern + n.cgroup + "/*/pod*")
			Expect(left).To(BeEmpty(), "cgroups of pods")
		}
		Expect(cgroup.New().Remove(context.Background(), n.cgroup)).To(Succeed())
		Expect(os.RemoveAll(dir)).To(Succeed())
		Expect(demo.Close()).To(Succeed())
	})
	n.start()
}

func beginOCI(n *node) *backend {
	root := filepath.Join(n.dir, "oci")
	open := func() (podlifecycle.Runtime, func() error, error) {
		rt, err := oci.Open(oci.Config{Root: root, CgroupRoot: n.cgroup + "/oci", WarmShims: 1, RuntimeHandlers: map[string]string{otherClass: "runc"}})
		if err != nil {
			return nil, nil, err
		}
		return rt, rt.Close, nil
	}
	return &backend{name: "oci", open: open, close: func() error {
		rt, err := oci.Open(oci.Config{Root: root, CgroupRoot: n.cgroup + "/oci", RuntimeHandlers: map[string]string{otherClass: "runc"}})
		if err != nil {
			return err
		}
		return errors.Join(rt.Purge(context.Background()), rt.Close())
	}}
}

func beginCRI(n *node) *backend {
	GinkgoHelper()
	pause, err := containerdtest.PushPause(n.images.Prog)
	Expect(err).NotTo(HaveOccurred())
	daemon, err := containerdtest.New(containerdtest.Config{Dir: filepath.Join(n.dir, "c"), Pause: pause,
		Handlers: map[string]containerdtest.Handler{otherClass: {Root: filepath.Join(n.dir, otherClass)}}})
	Expect(err).NotTo(HaveOccurred())
	Expect(daemon.Start()).To(Succeed())
	open := func() (podlifecycle.Runtime, func() error, error) {
		rt, err := cri.Dial(context.Background(), cri.Config{Endpoint: "unix://" + daemon.Socket})
		if err != nil {
			return nil, nil, err
		}
		return rt, rt.Close, nil
	}
	return &backend{name: "cri", open: open, close: daemon.Close}
}

// start starts an agent, which finds what one before has left.
func (n *node) start() {
	GinkgoHelper()
	rt, done, err := n.open()
	Expect(err).NotTo(HaveOccurred())
	n.rt = rt
	resolvConf, err := os.Open(filepath.Join(n.dir, "resolv.conf"))
	Expect(err).NotTo(HaveOccurred())
	dns, err := hostfiles.ParseResolvConf(resolvConf)
	Expect(errors.Join(err, resolvConf.Close())).NotTo(HaveOccurred())
	n.manager, err = podlifecycle.New(podlifecycle.Config{
		Runtime: rt, Root: filepath.Join(n.dir, "pods"), LogRoot: filepath.Join(n.dir, "logs"), NodeName: nodeName,
		NodeIPs: []netip.Addr{nodeIP}, Hosts: hostfiles.Node{ResolvConf: dns, ClusterDNS: []string{clusterDNS}, ClusterDomain: "cluster.test"},
		QoS: qos.Node{CgroupRoot: n.cgroup + "/pods", MemoryCapacity: 8 << 30, PodPidsLimit: podPIDs, HugePageSizes: hugePageSizes()}, Cgroups: cgroup.New(),
		ImageGC: imagegc.Policy{HighPercent: 100, MinAge: time.Nanosecond}, LogRotation: logfiles.Policy{MaxSize: 1 << 20}, LogLinks: filepath.Join(n.dir, "links"),
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), hugePages: hugePagesHere()},
		Eviction:    n.eviction(rt), Credentials: n.credentials(), Security: security.Config{SeccompRoot: filepath.Join(n.dir, "seccomp")},
		VolumePlugins: map[string]volume.Plugin{"nfs": exports{filepath.Join(n.dir, "exports")}},
		OnStatus:      func(pod *corev1.Pod) { n.reported.Store(pod.Name, pod) },
	})
	Expect(err).NotTo(HaveOccurred())
	directory, err := source.New(source.Config{Path: n.manifests, VolumePlugins: []string{"nfs"}})
	Expect(err).NotTo(HaveOccurred())
	var from source.Source = directory
	if n.besides != nil {
		from, err = source.NewMerge(append([]source.Part{{Name: "manifests", Source: directory}}, n.besides()...)...)
		Expect(err).NotTo(HaveOccurred())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- n.manager.Run(ctx) }()
	go func() { ended <- from.Run(ctx, n.manager.Set) }()
	n.stop = func() {
		GinkgoHelper()
		cancel()
		Expect(<-ended).To(Succeed())
		Expect(<-ended).To(Succeed())
		Expect(done()).To(Succeed())
	}
}

// clear takes all pods away and waits for that.
func (n *node) clear() {
	entries, err := os.ReadDir(n.manifests)
	Expect(err).NotTo(HaveOccurred())
	for _, e := range entries {
		Expect(os.Remove(filepath.Join(n.manifests, e.Name()))).To(Succeed())
	}
	Eventually(func() []*corev1.Pod { return n.manager.Pods() }, patience).Should(BeEmpty())
}

// write puts a manifest there at once.
func (n *node) write(file, text string) {
	GinkgoHelper()
	tmp := filepath.Join(n.dir, "new")
	Expect(os.WriteFile(tmp, []byte(text), 0o600)).To(Succeed())
	Expect(os.Rename(tmp, filepath.Join(n.manifests, file))).To(Succeed())
}

// apply writes a pod, whose spec is given in YAML's flow style or indented by
// two. Unless the spec says so, its grace is a second.
func (n *node) apply(name, spec string) {
	GinkgoHelper()
	if !strings.Contains(spec, "terminationGracePeriodSeconds") {
		spec += "\n  terminationGracePeriodSeconds: 1"
	}
	n.write(name+".yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: "+name+"\n  labels: {row: yes-it-is}\nspec:\n  "+spec+"\n")
}

// does is a container of the test's image that does steps, see testimage. More
// are fields in flow style.
func (n *node) does(name, steps string, more ...string) string {
	args, _ := json.Marshal(strings.Fields(steps)) // strings always can be
	return fmt.Sprintf("{name: %s, image: %q, args: %s%s}", name, n.images.Prog, args, strings.Join(append([]string{""}, more...), ", "))
}

// pod as its agent knows it, nil if it does not.
func (n *node) pod(name string) *corev1.Pod {
	pod, err := n.manager.Pod("default", name)
	if err != nil {
		return nil
	}
	return pod
}

// until waits until f holds of a pod, and gives it.
func (n *node) until(name string, f func(Gomega, *corev1.Pod)) (pod *corev1.Pod) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		pod = n.pod(name)
		g.Expect(pod).NotTo(BeNil())
		f(g, pod)
	}, patience, 20*time.Millisecond).Should(Succeed(), func() string { return n.tell(name) })
	return pod
}

// tell is all that is known of a pod, for failures.
func (n *node) tell(name string) string {
	why, _ := n.manager.Why("default", name)
	var problems []string
	for _, p := range n.manager.Problems() {
		problems = append(problems, p.Error())
	}
	data, _ := json.MarshalIndent(map[string]any{"why": why, "status": n.pod(name), "problems": problems}, "", " ")
	return string(data)
}

func (n *node) untilPhase(name string, phase corev1.PodPhase) *corev1.Pod {
	GinkgoHelper()
	return n.until(name, func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.Phase).To(Equal(phase)) })
}

func (n *node) untilReady(name string) *corev1.Pod {
	GinkgoHelper()
	return n.until(name, func(g Gomega, pod *corev1.Pod) {
		g.Expect(condition(pod, corev1.PodReady)).To(Equal(corev1.ConditionTrue))
	})
}

// first is the status of a pod's first container, once there is one.
func first(g Gomega, pod *corev1.Pod) corev1.ContainerStatus {
	g.Expect(pod.Status.ContainerStatuses).NotTo(BeEmpty())
	return pod.Status.ContainerStatuses[0]
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// output is what a container has printed, up to its last whole line while it runs.
func (n *node) output(name, container string) string {
	path, err := n.manager.LogPath("default", name, container, false)
	if err != nil {
		return ""
	}
	data, _ := os.ReadFile(path)
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 && fields[2] == "P" {
			b.WriteString(strings.TrimSuffix(fields[3], "\n"))
		} else if len(fields) == 4 {
			b.WriteString(fields[3])
		}
	}
	return b.String()
}

// prints runs a pod with one container to its end, and gives what it printed.
// Fields are the container's, rest the pod's.
func (n *node) prints(name, steps, rest string, fields ...string) string {
	GinkgoHelper()
	n.apply(name, "restartPolicy: Never\n  containers: ["+n.does("app", steps, fields...)+"]"+rest)
	n.untilPhase(name, corev1.PodSucceeded)
	return n.output(name, "app")
}
