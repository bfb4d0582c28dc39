//go:build linux

package statusserver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/statusserver"
)

// world is a node that specs change while the page looks at it.
type world struct {
	mu     sync.Mutex
	pods   []corev1.Pod
	broken error
	began  time.Time
	asked  []string
}

const nasty = `<img src=x onerror="document.title='owned'">`

func newWorld() *world {
	w := &world{began: time.Now().Add(-3 * time.Minute)}
	running := func(restarts int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "main", Ready: true, RestartCount: restarts,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(w.began)}}}
	}
	w.add("default", "web-0", corev1.PodRunning, true, "10.88.0.2", running(0))
	w.add("default", "web-1", corev1.PodRunning, true, "10.88.0.3", running(1))
	w.add("default", "api-6d4cf56db6-x2x7k", corev1.PodRunning, false, "10.88.0.4", corev1.ContainerStatus{
		Name: "main", RestartCount: 4,
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s restarting failed container " + nasty}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "Error", ExitCode: 137, FinishedAt: metav1.NewTime(time.Now().Add(-20 * time.Second))}},
	})
	w.add("jobs", "migrate", corev1.PodSucceeded, false, "10.88.0.5", corev1.ContainerStatus{Name: "main",
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: metav1.NewTime(w.began)}}})
	w.add("default", "starting", corev1.PodPending, false, "", corev1.ContainerStatus{Name: "main",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}})
	w.pods[0].Spec.InitContainers = []corev1.Container{
		{Name: "fetch", Image: "127.0.0.1:5000/demo/fetch:v1"},
		{Name: "proxy", Image: "127.0.0.1:5000/demo/proxy:v1", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)},
	}
	w.pods[0].Status.InitContainerStatuses = []corev1.ContainerStatus{
		{Name: "fetch", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: metav1.NewTime(w.began)}}},
		{Name: "proxy", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(w.began)}}},
	}
	return w
}

func (w *world) add(ns, name string, phase corev1.PodPhase, ready bool, ip string, statuses ...corev1.ContainerStatus) {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-of-" + name)},
		Status:     corev1.PodStatus{Phase: phase, PodIP: ip, StartTime: ptr(metav1.NewTime(w.began)), ContainerStatuses: statuses},
	}
	condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
	if ready {
		condition.Status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{condition}
	for _, s := range statuses {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: s.Name, Image: "127.0.0.1:5000/demo/" + name + ":v1"})
	}
	w.pods = append(w.pods, pod)
}

func (w *world) change(f func(w *world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// deeds gives what providers were asked.
func (w *world) deeds() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.asked...)
}

func (w *world) config() statusserver.Config {
	config := full()
	config.Pods = statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return &corev1.PodList{Items: append([]corev1.Pod(nil), w.pods...)}, w.broken
	})
	config.Stats = statusserver.StatsFunc(func(context.Context, bool) (*stats.Summary, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		t := float64(time.Now().UnixMilli()) / 1000
		wave := func(i int) (*stats.CPUStats, *stats.MemoryStats) {
			cores := 0.14 + 0.1*math.Sin(t/3+float64(i)) + 0.02*math.Sin(t*7)
			return &stats.CPUStats{UsageNanoCores: ptr(uint64(cores * 1e9))},
				&stats.MemoryStats{WorkingSetBytes: ptr(uint64((40 + 8*float64(i) + 6*math.Sin(t/5+float64(i))) * (1 << 20)))}
		}
		s := &stats.Summary{Node: stats.NodeStats{NodeName: "node-a"}}
		s.Node.CPU, s.Node.Memory = wave(9)
		for i, pod := range w.pods {
			if pod.Status.Phase != corev1.PodRunning {
				continue
			}
			p := stats.PodStats{PodRef: stats.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}}
			p.CPU, p.Memory = wave(i)
			s.Pods = append(s.Pods, p)
		}
		return s, nil
	})
	config.Why = statusserver.WhyFunc(func(_ context.Context, ns, pod string) (fmt.Stringer, error) {
		if pod == "starting" {
			return nil, errors.New("the journal cannot be read")
		}
		if pod == "migrate" {
			return doc{}, nil // every field absent
		}
		return w.explanation(ns, pod), nil
	})
	config.Trace = statusserver.TraceFunc(func(_ context.Context, from netip.Addr, to netip.AddrPort, proto string) (fmt.Stringer, error) {
		w.change(func(w *world) { w.asked = append(w.asked, fmt.Sprintf("trace %v %v %s", from, to, proto)) })
		if to.Port() == 8 { // the other shape
			return doc{
				"packet": doc{"from": from.String(), "to": to.String(), "protocol": "TCP"}, "verdict": "balance", "service": "default/web", "portName": "http",
				"steps":    []any{doc{"rule": "cluster-ip", "text": "the address is that of a Service"}},
				"backends": []any{doc{"addr": "[fd00::3]:8080", "target": "default/web-1", "odds": 1, "masquerade": true, "terminating": true}},
			}, nil
		}
		if to.Port() == 9 {
			return doc{"verdict": "reject", "to": to.String()}, nil
		}
		return doc{
			"from": from.String(), "to": to.String(), "protocol": proto, "verdict": "dnat",
			"rules": []any{
				doc{"chain": "nat-prerouting", "rule": "ip daddr . meta l4proto . th dport vmap @service-ips", "note": "the Service default/web, port http"},
				doc{"chain": "service-default-web", "rule": "numgen random mod 2 vmap { 0 : ep-0, 1 : ep-1 }"},
			},
			"backends": []any{
				doc{"address": "10.88.0.2", "port": 8080, "odds": 0.5, "pod": "default/web-0"},
				doc{"address": "fd00::3", "port": 8080, "odds": 0.5, "pod": "default/web-1"},
				doc{"address": "10.88.0.9"},
			},
			"text": "10.96.0.10:80 tcp\n  -> 10.88.0.2:8080 (50 %)",
		}, nil
	})
	config.Logs = statusserver.LogsFunc(func(ctx context.Context, ns, pod, container string, opts *corev1.PodLogOptions, out, _ io.Writer) error {
		_, err := fmt.Fprintf(out, "hello from %s/%s/%s\n%s\n", ns, pod, container, nasty)
		if opts.Follow {
			<-ctx.Done()
		}
		return err
	})
	return config
}

func (w *world) explanation(ns, pod string) doc {
	at := func(ms int) string { return w.began.Add(time.Duration(ms) * time.Millisecond).Format(time.RFC3339Nano) }
	records := []any{
		doc{"time": at(0), "rule": "sandbox-missing", "input": "no sandbox", "action": "make sandbox", "reason": "the pod has no sandbox", "result": "ok, 41 ms"},
		doc{"time": at(48), "rule": "image-missing", "container": "main", "action": "pull image", "reason": "image is not present", "result": "ok, 812 ms"},
		doc{"time": at(870), "rule": "container-missing", "container": "main", "action": "create container", "reason": "never ran", "result": "ok"},
		doc{"time": at(905), "rule": "created", "container": "main", "action": "start container", "reason": "created and not started", "result": "ok"},
		doc{"time": at(2905), "rule": "readiness", "container": "main", "input": "GET :8080/ready 200", "action": "none", "reason": "ready after 1 success", "count": 7, "last": at(9905), "took": 1_500_000},
	}
	if strings.HasPrefix(pod, "api") {
		for i := range 4 {
			records = append(records,
				doc{"time": at(9000 + 20000*i), "rule": "exited", "container": "main", "input": "exit code 137", "action": "restart container", "reason": fmt.Sprintf("restartPolicy Always, back-off %ds", 10<<i), "result": "scheduled"},
				doc{"time": at(19000 + 20000*i), "rule": "start", "container": "main", "action": "start container", "reason": "back-off is over", "error": "run container: exec: no such file or directory " + nasty})
		}
		return doc{"pod": ns + "/" + pod, "uid": "uid-of-" + pod, "phase": "Running", "ready": false,
			"summary": "Container main exits with code 137 soon after each start; it is restarted again when its back-off of 40s is over.",
			"next":    doc{"action": "restart container main", "at": time.Now().Add(25 * time.Second).Format(time.RFC3339Nano), "reason": "CrashLoopBackOff"},
			"records": records}
	}
	return doc{"pod": ns + "/" + pod, "phase": "Running", "ready": true, "summary": "Ready since the readiness probe of main succeeded.",
		"problems": []any{"web.yaml: spec.foo: unknown field"}, "records": records}
}

type doc map[string]any

func (d doc) String() string { return fmt.Sprint(map[string]any(d)) }

var _ = Describe("The page", func() {
	It("is at most 100 KiB packed, and loads nothing from elsewhere", func(ctx SpecContext) {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		files, err := filepath.Glob("ui/*")
		Expect(err).NotTo(HaveOccurred())
		Expect(files).NotTo(BeEmpty())
		for _, file := range files {
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			_, err = z.Write(data)
			Expect(err).NotTo(HaveOccurred())
			plain := strings.ReplaceAll(string(data), "http://www.w3.org/2000/svg", "")
			for _, bad := range []string{"http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write", "eval("} {
				Expect(plain).NotTo(ContainSubstring(bad), file)
			}
		}
		Expect(z.Close()).To(Succeed())
		Expect(packed.Len()).To(BeNumerically("<", 100<<10))
		GinkgoWriter.Printf("the page is %d bytes packed\n", packed.Len())
	})

	It("is kept by browsers until it changes", func(ctx SpecContext) {
		base := serveOne(full())
		for file, kind := range map[string]string{"": "text/html", "app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"} {
			a := get(ctx, base+"/ui/"+file)
			Expect(a.header.Get("Content-Type")).To(HavePrefix(kind))
			Expect(get(ctx, base+"/ui/"+file, "If-None-Match: "+a.header.Get("ETag")).status).To(Equal(304))
		}
		Expect(get(ctx, base+"/ui/nothing.js").status).To(Equal(404))
	})

	It("shows pods, why, curves, logs and packets, by keyboard alone", func(ctx SpecContext) {
		w := newWorld()
		base := serveOne(w.config())
		b := startBrowser()
		b.screen(1440, 900, "light")
		b.open(base + "/ui/")
		see := func(selector string) AsyncAssertion {
			return Eventually(b.text(selector)).WithTimeout(time.Minute)
		}

		By("listing the pods")
		see("#rows tr:nth-child(1)").Should(And(ContainSubstring("default/web-0"), ContainSubstring("Running"), ContainSubstring("2/2"), ContainSubstring("10.88.0.2"), ContainSubstring("3m")))
		see("#rows tr:nth-child(3)").Should(And(ContainSubstring("api-6d4cf56db6-x2x7k"), ContainSubstring("CrashLoopBackOff"), ContainSubstring("0/1")))
		see("#rows tr:nth-child(4)").Should(ContainSubstring("Completed"))
		see("#rows tr:nth-child(5)").Should(ContainSubstring("ContainerCreating"))
		see("#node").Should(Equal("node-a"))
		see("#link").Should(Equal("live"))
		see("#facts").Should(ContainSubstring("in trouble"))

		By("drawing curves")
		drawn := func(selector string) func() string {
			return func() string {
				return b.eval(fmt.Sprintf(`document.querySelector(%q)?.getAttribute("d")?.includes("L") ? "drawn" : "not drawn"`, selector))
			}
		}
		Eventually(drawn("#node-use .cpu .line")).WithTimeout(time.Minute).Should(Equal("drawn"))
		Eventually(drawn("#rows tr:nth-child(1) .memory .line")).WithTimeout(time.Minute).Should(Equal("drawn"))
		see("#rows tr:nth-child(1) .memory .value").Should(ContainSubstring("MiB"))
		if os.Getenv("NODEKIT_SCREENSHOTS") != "" {
			time.Sleep(20 * time.Second) // for people: something to see in the curves
		}
		b.shot("1-pods-light")

		By("choosing with the keyboard")
		b.key("/")
		Expect(b.eval(`document.activeElement.id`)).To(Equal("filter"))
		b.write("api")
		Eventually(func() string { return b.eval(`document.querySelectorAll("#rows tr").length`) }).Should(Equal("1"))
		b.key("ArrowDown")
		b.key("Enter")
		see("#detail .summary").Should(ContainSubstring("exits with code 137"))
		see("#detail .next").Should(And(ContainSubstring("restart container main"), MatchRegexp(`in \d+s`), ContainSubstring("CrashLoopBackOff")))
		see("#detail .boxes").Should(And(ContainSubstring("waiting: CrashLoopBackOff"), ContainSubstring("exit code 137"), ContainSubstring("demo/api")))
		see("#detail .records li:first-child").Should(ContainSubstring("no such file or directory"))
		Expect(b.eval(`document.querySelectorAll("#detail .lanes .mark").length`)).To(Equal("13"))
		Expect(b.eval(`document.querySelectorAll("#detail .lanes .mark.bad").length`)).To(Equal("4"))
		Expect(b.eval(`location.hash`)).To(Equal("#pod/default/api-6d4cf56db6-x2x7k"))
		b.key("/")
		b.key("Escape")
		Eventually(func() string { return b.eval(`document.querySelectorAll("#rows tr").length`) }).Should(Equal("5"))
		Eventually(drawn("#detail .chart.memory .line")).WithTimeout(time.Minute).Should(Equal("drawn"))
		b.shot("2-why-light")

		By("taking nothing for HTML")
		see("#detail .records li:first-child .error").Should(ContainSubstring(nasty))
		see("#detail .message").Should(ContainSubstring(nasty))
		Expect(b.eval(`document.querySelectorAll("main img").length`)).To(Equal("0"))
		Expect(b.eval(`document.title`)).To(Equal("node-a · nodekit"))

		By("reading a log")
		b.eval(`document.querySelector("#detail .box button").focus()`)
		b.key("Enter")
		see("#detail .log pre").Should(Equal("hello from default/api-6d4cf56db6-x2x7k/main\n" + nasty + "\n"))
		see("#detail .log").Should(ContainSubstring("following"))

		By("looking at another pod, with init container and sidecar, then closing")
		b.eval(`document.querySelector("#rows tr:nth-child(1) button").focus()`)
		b.key("Enter")
		see("#detail .summary").Should(ContainSubstring("Ready since"))
		see("#detail .boxes").Should(And(ContainSubstring("sidecar"), ContainSubstring("init"), ContainSubstring("terminated: Completed (exit code 0)")))
		see("#detail .why .problem").Should(Equal("web.yaml: spec.foo: unknown field"))
		see("#detail .records li:first-child").Should(And(ContainSubstring("readiness"), ContainSubstring("7 times, last at"), ContainSubstring("1.5 ms")))
		b.screen(1440, 1000, "dark")
		b.shot("3-why-dark")
		b.key("Escape")
		Eventually(func() string { return b.eval(`document.getElementById("detail").hidden`) }).Should(Equal("true"))
		Expect(b.eval(`document.activeElement.innerText`)).To(Equal("default/web-0"), "the focus goes back")

		By("explaining a packet")
		b.eval(`document.querySelector("#trace-form [name=from]").focus()`)
		b.write("10.88.0.3")
		b.key("Tab")
		b.write("10.96.0.10:80")
		b.key("Enter")
		see("#trace-answer .verdict").Should(Equal("dnat"))
		see("#trace-answer .rules").Should(And(ContainSubstring("service-default-web"), ContainSubstring("the Service default/web")))
		see("#trace-answer .backends").Should(And(ContainSubstring("10.88.0.2:8080"), ContainSubstring("[fd00::3]:8080"), ContainSubstring("50 %"), ContainSubstring("default/web-1")))
		Expect(w.deeds()).To(ContainElement("trace 10.88.0.3 10.96.0.10:80 tcp"))
		b.shot("4-trace-dark")
		b.eval(`document.querySelector("#trace-form [name=to]").value = "web:80"; document.querySelector("#trace-form").requestSubmit()`)
		see("#trace-answer .problem").Should(ContainSubstring(`"web:80" is not an IP address and port`))
		b.eval(`document.querySelector("#trace-form [name=to]").value = "10.96.0.10:9"; document.querySelector("#trace-form").requestSubmit()`)
		see("#trace-answer .verdict").Should(Equal("reject"))

		b.eval(`document.querySelector("#trace-form [name=to]").value = "10.96.0.10:8"; document.querySelector("#trace-form").requestSubmit()`)
		see("#trace-answer .verdict").Should(Equal("balance"))
		see("#trace-answer .path").Should(And(ContainSubstring("10.88.0.3"), ContainSubstring("Service default/web, port http")))
		see("#trace-answer .rules").Should(ContainSubstring("the address is that of a Service"))
		see("#trace-answer .backends").Should(And(ContainSubstring("[fd00::3]:8080"), ContainSubstring("default/web-1, sees the address of the node, terminating"), ContainSubstring("100 %")))

		By("surviving explanations that lack all or fail")
		b.eval(`location.hash = "#pod/jobs/migrate"`)
		see("#detail h2").Should(Equal("jobs/migrate"))
		b.eval(`location.hash = "#pod/default/starting"`)
		see("#detail .problem").Should(ContainSubstring("the journal cannot be read"))

		By("following changes")
		w.change(func(w *world) { w.pods = w.pods[1:2] })
		Eventually(func() string { return b.eval(`document.querySelectorAll("#rows tr").length`) }).WithTimeout(time.Minute).Should(Equal("1"))
		see("#detail .bar .status").Should(Equal("gone"))
		w.change(func(w *world) { w.broken = errors.New("runtime is away") })
		see("#problems").Should(ContainSubstring("The pods cannot be read: runtime is away"))
		b.shot("5-error-dark")
		w.change(func(w *world) { w.broken, w.pods = nil, nil })
		see("#problems").Should(BeEmpty())
		see("#no-pods").Should(Equal("No pods on this node yet."))
		b.key("Escape")
		b.screen(1440, 900, "light")
		b.shot("6-empty-light")

		By("turning dark by hand, and staying so")
		ground := func() string { return b.eval(`getComputedStyle(document.body).backgroundColor`) }
		light := ground()
		b.eval(`document.getElementById("theme").click(); document.getElementById("theme").click()`)
		Expect(ground()).NotTo(Equal(light))
		b.open(base + "/ui/?again")
		Eventually(func() string { return b.eval(`location.search`) }).WithTimeout(time.Minute).Should(Equal("?again"))
		see("#link").Should(Equal("live"))
		Expect(ground()).NotTo(Equal(light))

		expected := func(fault string) bool { // statuses that the spec asked for
			return strings.Contains(fault, "the server responded with a status of 400") || strings.Contains(fault, "the server responded with a status of 500")
		}
		for _, fault := range b.complaints() {
			Expect(expected(fault)).To(BeTrue(), fault)
		}
	})

	It("shows who burdens the node, the heaviest first, with curves", func(ctx SpecContext) {
		var mu sync.Mutex
		first := "system/ssh"
		at := time.Now()
		config := statusserver.Config{UI: true, NodeName: "node-a", Burden: statusserver.BurdenFunc(func(context.Context) (fmt.Stringer, error) {
			mu.Lock()
			defer mu.Unlock()
			at = at.Add(time.Second)
			burdens := []any{doc{"name": first, "cgroup": "/" + first, "share": 0.4123, "used": doc{"cpu": 1.6, "memory": 64 << 20},
				"reasons": []any{"waits for CPU 30 % of the time", nasty}}}
			for i := range 20 {
				burdens = append(burdens, doc{"name": fmt.Sprint("default/web-", i), "cgroup": fmt.Sprint("/kubepods/pod", i), "share": 0.01, "used": doc{}})
			}
			return doc{"time": at.Format(time.RFC3339Nano), "used": doc{"cpu": 1.7, "memory": 3 << 30}, "allocatable": doc{"cpu": 3.5, "memory": 8 << 30}, "burdens": burdens}, nil
		})}
		b := startBrowser()
		b.screen(1440, 900, "light")
		b.open(serveOne(config) + "/ui/")
		Eventually(b.text("#burdens tr:first-child")).WithTimeout(time.Minute).Should(And(
			ContainSubstring("system/ssh"), ContainSubstring("41.2 %"), ContainSubstring("1.60"), ContainSubstring("64.0 MiB"),
			ContainSubstring("waits for CPU 30 % of the time; <img src=x")))
		Expect(b.text("#burden-node")()).To(Equal("CPU 1.70 of 3.50, memory 3.0 GiB of 8.0 GiB"))
		Expect(b.eval(`String(document.querySelectorAll("#burdens tr").length)`)).To(Equal("12"))
		Eventually(func() any { return b.eval(`document.querySelector("#burdens .cpu .line").getAttribute("d") || ""`) }).
			WithTimeout(20 * time.Second).Should(MatchRegexp(`^M.*L`))
		// Who meters no pods shows no empty table of them.
		Expect(b.eval(`String(getComputedStyle(document.getElementById("pods")).display)`)).To(Equal("none"))
		b.shot("9-burden-light")
		mu.Lock()
		first = "system/cron"
		mu.Unlock()
		Eventually(b.text("#burdens tr:first-child")).WithTimeout(time.Minute).Should(ContainSubstring("system/cron"))
		Expect(b.complaints()).To(BeEmpty())
	})

	It("fits a telephone", func(ctx SpecContext) {
		w := newWorld()
		base := serveOne(w.config())
		b := startBrowser()
		for _, scheme := range []string{"light", "dark"} {
			b.screen(390, 844, scheme)
			b.open(base + "/ui/?" + scheme + "#pod/default/api-6d4cf56db6-x2x7k")
			Eventually(func() string { return b.eval(`location.search`) }).WithTimeout(time.Minute).Should(Equal("?" + scheme))
			Eventually(b.text("#detail .summary")).WithTimeout(time.Minute).Should(ContainSubstring("137"))
			Expect(b.eval(`document.documentElement.scrollWidth`)).To(Equal("390"), "nothing sticks out")
			b.shot("7-narrow-" + scheme)
		}
	})

	It("says when the server is gone, and comes back with it", func(ctx SpecContext) {
		config := newWorld().config()
		first := startServer(config)
		b := startBrowser()
		b.screen(1440, 900, "light")
		b.open("http://" + first.addr + "/ui/")
		Eventually(b.text("#link")).WithTimeout(time.Minute).Should(Equal("live"))
		Eventually(b.text("#rows")).WithTimeout(time.Minute).Should(ContainSubstring("web-0"))
		first.stop()
		Eventually(b.text("#link")).WithTimeout(time.Minute).Should(ContainSubstring("connection lost"))
		b.shot("8-lost-light")
		config.Listeners = []statusserver.Listener{statusserver.LoopbackListener(0)}
		config.Listeners[0].Address = first.addr
		second := startServer(config)
		defer second.stop()
		Eventually(b.text("#link")).WithTimeout(time.Minute).Should(Equal("live"))
	})

	It("obeys its own policy: no script of another's runs", func(ctx SpecContext) {
		base := serveOne(newWorld().config())
		b := startBrowser()
		b.open(base + "/ui/")
		Eventually(b.text("#rows")).WithTimeout(time.Minute).Should(ContainSubstring("web-0"))
		b.eval(`{ const s = document.createElement("script"); try { s.text = "window.owned = 1"; document.head.append(s) } catch {} }`)
		Expect(b.eval(`String(window.owned)`)).To(Equal("undefined"))
		Expect(b.eval(`fetch("` + (&url.URL{Scheme: "http", Host: "127.0.0.1:1"}).String() + `").then(() => "got out", (e) => "refused")`)).To(Equal("refused"))
		Eventually(b.complaints).Should(ContainElement(ContainSubstring("Content Security Policy")))
	})
})

// runningServer is a server that the spec stops itself.
type runningServer struct {
	addr string
	stop func()
}

func startServer(config statusserver.Config) runningServer {
	GinkgoHelper()
	if config.Listeners == nil {
		config.Listeners = []statusserver.Listener{statusserver.LoopbackListener(0)}
	}
	bound := make(chan string, 1)
	config.OnListen = func(addrs []net.Addr) { bound <- addrs[0].String() }
	server, err := statusserver.New(config)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	var addr string
	Eventually(bound).WithTimeout(time.Minute).Should(Receive(&addr))
	return runningServer{addr: addr, stop: func() {
		cancel()
		Eventually(ended).WithTimeout(time.Minute).Should(Receive(BeNil()))
	}}
}
