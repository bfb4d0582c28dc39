package rows_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
)

func init() { rows = append(rows, probes, hooks) }

const web = `{name: app, image: "` + demoRegistry + `/demo:1", args: [web], %s}`

func probes(n *node) {
	for kind, probe := range map[string]string{
		"a command":        "exec: {command: [/bin/demo, check, /bin/demo]}",
		"an HTTP request":  "httpGet: {path: /healthz, port: 8080}",
		"a TCP connection": "tcpSocket: {port: 8080}",
	} {
		It("is ready by "+kind, func() {
			n.apply("probed", "containers: ["+fmt.Sprintf(web, "readinessProbe: {"+probe+", periodSeconds: 1}")+"]")
			n.untilReady("probed")
		})
	}

	It("is ready by gRPC, and only as long as that says SERVING", func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		states, server := health.NewServer(), grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(server, states)
		go func() { _ = server.Serve(listener) }()
		DeferCleanup(server.Stop)
		n.apply("grpc", "hostNetwork: true\n  containers: ["+n.does("app", "forever",
			fmt.Sprintf("readinessProbe: {grpc: {port: %d}, periodSeconds: 1, failureThreshold: 1}", listener.Addr().(*net.TCPAddr).Port))+"]")
		n.untilReady("grpc")
		states.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		n.until("grpc", func(g Gomega, pod *corev1.Pod) {
			g.Expect(condition(pod, corev1.PodReady)).To(Equal(corev1.ConditionFalse))
		})
	})

	It("is asked as the kubelet asks", func() {
		asked := make(chan *http.Request, 1000)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- r.Clone(r.Context()) }))
		DeferCleanup(server.Close)
		port := server.Listener.Addr().(*net.TCPAddr).Port
		n.apply("asked", "hostNetwork: true\n  containers: ["+n.does("app", "forever",
			"readinessProbe: {httpGet: {path: /here, port: "+strconv.Itoa(port)+", host: 127.0.0.1, httpHeaders: [{name: X-Row, value: r}]}, periodSeconds: 1}")+"]")
		n.untilReady("asked")
		r := <-asked
		Expect(r.URL.Path).To(Equal("/here"))
		Expect(r.Header.Get("X-Row")).To(Equal("r"))
		Expect(r.UserAgent()).To(HavePrefix("kube-probe/"))
	})

	It("is started again when it does not live, and not before it had time to start", func() {
		mount := "volumeMounts: [{name: v, mountPath: /v}]"
		n.apply("lives", "containers: ["+n.does("app", "write /v/lives x ; forever", mount,
			`livenessProbe: {exec: {command: [/prog, open, /v/lives]}, periodSeconds: 1, failureThreshold: 1}`)+"]\n  volumes: [{name: v, emptyDir: {}}]")
		pod := n.untilReady("lives")
		file := filepath.Join(n.dir, "pods", "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", "v", "lives")
		Eventually(func() error { return os.Remove(file) }, patience).Should(Succeed())
		n.until("lives", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).RestartCount).To(BeEquivalentTo(1))
			g.Expect(first(g, pod).State.Running).NotTo(BeNil())
		})
		Expect(n.tell("lives")).To(ContainSubstring("liveness"))
	})

	It("is not ready before its startup probe has passed", func() {
		mount := "volumeMounts: [{name: v, mountPath: /v}]"
		n.apply("slow", "containers: ["+n.does("app", "forever", mount,
			`startupProbe: {exec: {command: [/prog, open, /v/up]}, periodSeconds: 1, failureThreshold: 60}`)+"]\n  volumes: [{name: v, emptyDir: {}}]")
		pod := n.until("slow", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(first(g, pod).State.Running).NotTo(BeNil())
		})
		Expect(*pod.Status.ContainerStatuses[0].Started).To(BeFalse())
		Expect(condition(pod, corev1.PodReady)).To(Equal(corev1.ConditionFalse))
		Expect(os.WriteFile(filepath.Join(n.dir, "pods", "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", "v", "up"), nil, 0o644)).To(Succeed())
		n.untilReady("slow")
	})
}

func hooks(n *node) {
	It("is started only when its postStart hook is done", func() {
		n.apply("hook", "containers: ["+n.does("app", "await /tmp/hooked ; print after ; forever", "lifecycle: {postStart: {exec: {command: [/prog, write, /tmp/hooked, x]}}}")+"]")
		n.untilReady("hook")
		Eventually(n.output, patience).WithArguments("hook", "app").Should(Equal("after\n"))
	})

	It("is killed when its postStart hook fails, and says so", func() {
		n.apply("fails", "restartPolicy: Never\n  containers: ["+n.does("app", "forever", "lifecycle: {postStart: {exec: {command: [/prog, exit, \"1\"]}}}")+"]")
		n.until("fails", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).State.Terminated).NotTo(BeNil())
		})
		Expect(n.tell("fails")).To(ContainSubstring("PostStartHook"))
	})

	It("has its preStop hook run before SIGTERM, within its grace", func() {
		runs := filepath.Join(n.dir, "hooks")
		Expect(os.Mkdir(runs, 0o777)).To(Succeed())
		DeferCleanup(os.RemoveAll, runs)
		n.apply("stop", "terminationGracePeriodSeconds: 20\n  containers: ["+n.does("app", "trap 0 ; forever", "volumeMounts: [{name: runs, mountPath: /runs}]",
			"lifecycle: {preStop: {exec: {command: [/prog, append, /runs/log, hook]}}}")+"]\n  volumes: [{name: runs, hostPath: {path: "+runs+"}}]")
		n.untilReady("stop")
		n.clear()
		data, err := os.ReadFile(filepath.Join(runs, "log"))
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Count(string(data), "hook")).To(Equal(1))
	})
}
