package proxyhealth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func start(config proxyhealth.Config) *proxyhealth.Server {
	GinkgoHelper()
	ignore := goleak.IgnoreCurrent()
	if config.Mode == "" {
		config.Mode = "nftables"
	}
	s, err := proxyhealth.New(config)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	DeferCleanup(func() {
		cancel()
		Expect(<-done).To(Succeed())
		Expect(s.Run(ctx)).To(MatchError(proxyhealth.ErrStarted))
		Eventually(func() error { return goleak.Find(ignore) }).WithTimeout(time.Minute).Should(Succeed())
	})
	return s
}

func ask(s *proxyhealth.Server, method, path string) (int, string, http.Header) {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String(), w.Header()
}

var _ = Describe("a proxy's health", func() {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	var proxy *fakeProxy
	BeforeEach(func() { proxy = newFakeProxy() })

	It("is 200 until an update is overdue, and 503 for a node that goes at /healthz only", func() {
		node := &corev1.Node{}
		proxy.table = table(nil)
		s := start(proxyhealth.Config{Proxy: proxy, Clock: clocktesting.NewFakePassiveClock(now), Node: func() *corev1.Node { return node }})
		get := func(path string) (int, map[string]any) {
			code, body, header := ask(s, "GET", path)
			Expect(header.Get("Content-Type")).To(Equal("application/json"))
			var answer map[string]any
			Expect(json.Unmarshal([]byte(body), &answer)).To(Succeed())
			return code, answer
		}
		synced := now.Add(-time.Hour)
		proxy.set(func() { proxy.status.Synced = synced })
		const at, before = "2026-05-06T07:08:09Z", "2026-05-06T06:08:09Z"
		family := map[string]any{"lastUpdated": before, "healthy": true}
		code, answer := get("/healthz")
		Expect(code).To(Equal(200))
		Expect(answer).To(Equal(map[string]any{"lastUpdated": at, "currentTime": at, "nodeEligible": true, "healthy": true,
			"status": map[string]any{"IPv4": family, "IPv6": family}}))
		code, answer = get("/livez")
		Expect(code).To(Equal(200))
		Expect(answer).NotTo(HaveKey("nodeEligible"))

		proxy.set(func() { proxy.status.Pending, proxy.status.Waiting = true, 59*time.Second })
		code, _ = get("/healthz")
		Expect(code).To(Equal(200))
		proxy.set(func() { proxy.status.Waiting = time.Minute })
		for _, path := range []string{"/healthz", "/livez"} {
			code, answer = get(path)
			Expect(code).To(Equal(503))
			Expect(answer).To(And(HaveKeyWithValue("lastUpdated", before), HaveKeyWithValue("healthy", false)))
		}
		proxy.set(func() { proxy.status.Pending = false })
		for _, going := range []*corev1.Node{
			nil,
			{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: now}}},
			{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}}},
		} {
			node = going
			code, answer = get("/healthz")
			Expect(code).To(Equal(503))
			Expect(answer).To(And(HaveKeyWithValue("nodeEligible", false), HaveKeyWithValue("healthy", true)))
			code, _ = get("/livez")
			Expect(code).To(Equal(200))
		}
	})

	It("tells the mode, and nothing to those who would change something", func() {
		s := start(proxyhealth.Config{Proxy: proxy, Mode: "iptables"})
		code, body, _ := ask(s, "GET", "/proxyMode")
		Expect(code).To(Equal(200))
		Expect(body).To(Equal("iptables"))
		code, _, _ = ask(s, "POST", "/proxyMode")
		Expect(code).To(Equal(405))
		code, _, _ = ask(s, "GET", "/other")
		Expect(code).To(Equal(404))
	})

	It("is told in metrics under kube-proxy's names", func() {
		proxy.table = table(nil)
		s := start(proxyhealth.Config{Proxy: proxy, Clock: clocktesting.NewFakePassiveClock(now)})
		at := now.Add(-time.Minute)
		proxy.set(func() {
			proxy.status = proxyrules.Status{Queued: now.Add(-2 * time.Second), Synced: now.Add(-time.Second), Fronts: 3, Drifts: 2, CleanupFailures: 1,
				Problems: make([]proxyrules.Problem, 4)}
		})
		proxy.record(proxyrules.SyncRecord{Began: at, Ended: at.Add(3 * time.Millisecond), Services: 2, EndpointSlices: 1,
			Triggers: []time.Time{at.Add(-time.Hour)}, Stats: proxyrules.SyncStats{Elements: 7, Full: true}})
		proxy.record(proxyrules.SyncRecord{Began: at, Ended: at, Services: 5, EndpointSlices: 6, Err: errors.New("no")})
		_, failed, _ := ask(s, "GET", "/metrics")
		Eventually(func() string { _, failed, _ = ask(s, "GET", "/metrics"); return failed }).WithTimeout(time.Minute).
			Should(ContainSubstring("kubeproxy_sync_proxy_rules_service_changes_pending 5\n"))
		Expect(failed).To(ContainSubstring("kubeproxy_sync_proxy_rules_endpoint_changes_pending 6\n"))
		proxy.record(proxyrules.SyncRecord{Began: at.Add(time.Second), Ended: at.Add(time.Second), EndpointSlices: 1,
			Triggers: []time.Time{at.Add(250 * time.Millisecond)}, Stats: proxyrules.SyncStats{Elements: 2, Flows: 3, FlowsDuration: time.Second},
			Drift: &proxyrules.Drift{Noticed: at, Repaired: at.Add(250 * time.Millisecond)}})
		for range 2 {
			ask(s, "GET", "/healthz")
		}
		ask(s, "GET", "/livez")
		var text string
		Eventually(func() string { _, text, _ = ask(s, "GET", "/metrics"); return text }).WithTimeout(time.Minute).
			Should(ContainSubstring("kubeproxy_sync_proxy_rules_service_changes_pending 0\n"))
		const golden = "testdata/metrics.txt"
		if *update {
			Expect(os.MkdirAll("testdata", 0o755)).To(Succeed())
			Expect(os.WriteFile(golden, []byte(text), 0o644)).To(Succeed())
		}
		want, err := os.ReadFile(golden)
		Expect(err).NotTo(HaveOccurred())
		Expect(text).To(Equal(string(want)))
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		Expect(err).NotTo(HaveOccurred())
		for _, p := range problems {
			Expect(p.Metric).To(Equal("kubeproxy_sync_proxy_rules_no_local_endpoints_total"), p.Text) // kube-proxy's own slip
		}
	})

	It("says all that is wrong in a config", func() {
		_, err := proxyhealth.New(proxyhealth.Config{Overdue: -1})
		Expect(err).To(MatchError(And(ContainSubstring("Proxy"), ContainSubstring("Mode"), ContainSubstring("Overdue"))))
	})
})

// ports is a Listen that opens other ports than asked for, so that tests do not
// collide.
type ports struct {
	mu     sync.Mutex
	opened map[string]string // asked for: opened
	fail   error
}

func (p *ports) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return nil, p.fail
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, "127.0.0.1:0")
	if err == nil {
		p.opened[network+" "+address] = l.Addr().String()
	}
	return l, err
}

func (p *ports) url(asked string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return "http://" + p.opened[asked] + "/any"
}

var _ = Describe("health checks", func() {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) (string, error) {
		response, err := client.Get(url)
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return fmt.Sprint(response.StatusCode, " ", response.Header.Get("X-Load-Balancing-Endpoint-Weight"), " ", strings.TrimSpace(string(body))), err
	}
	web := func(n int) proxyrules.HealthCheck {
		return proxyrules.HealthCheck{Service: "default/web", Port: 30500, LocalEndpoints: n}
	}

	It("follow the table, and fail without an endpoint or a healthy proxy", func() {
		proxy, at := newFakeProxy(), &ports{opened: map[string]string{}}
		s := start(proxyhealth.Config{Proxy: proxy, Listen: at.Listen})
		sync := func(t *proxyrules.Table) {
			proxy.set(func() { proxy.table = t })
			proxy.record(proxyrules.SyncRecord{})
		}
		answer := func() (string, error) { return get(at.url("tcp4 127.0.0.1:30500")) }
		eventually := func(want string) {
			GinkgoHelper()
			Eventually(answer).WithTimeout(time.Minute).Should(Equal(want))
		}
		addresses := []netip.Addr{loopback}
		sync(table(addresses, web(2)))
		eventually(`200 2 {"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}`)
		sync(table(addresses, web(0)))
		eventually(`503 0 {"service":{"namespace":"default","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`)
		sync(table(addresses, web(1)))
		eventually(`200 1 {"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}`)
		proxy.set(func() { proxy.status.Pending, proxy.status.Waiting = true, time.Hour })
		eventually(`503 1 {"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":false}`)
		Expect(s.Problems()).To(BeEmpty())

		old := at.url("tcp4 127.0.0.1:30500")
		sync(table(addresses))
		Eventually(func() error { _, err := get(old); return err }).WithTimeout(time.Minute).Should(HaveOccurred())
	})

	It("tell of a port that cannot be had, and of a node without an address", func() {
		proxy, at := newFakeProxy(), &ports{opened: map[string]string{}, fail: errors.New("in use")}
		proxy.table = table([]netip.Addr{loopback}, web(1))
		s := start(proxyhealth.Config{Proxy: proxy, Listen: at.Listen})
		because := func(reason string) []proxyrules.Problem {
			return []proxyrules.Problem{{Service: "default/web", Field: "spec.healthCheckNodePort", Reason: "30500 is not served: " + reason}}
		}
		Eventually(s.Problems).WithTimeout(time.Minute).Should(Equal(because("in use")))
		proxy.set(func() { proxy.table = table(nil, web(1)) })
		proxy.record(proxyrules.SyncRecord{})
		Eventually(s.Problems).WithTimeout(time.Minute).Should(Equal(because("the node has no address")))
		at.mu.Lock()
		at.fail = nil
		at.mu.Unlock()
		proxy.set(func() { proxy.table = table([]netip.Addr{loopback}, web(1)) })
		proxy.record(proxyrules.SyncRecord{})
		Eventually(s.Problems).WithTimeout(time.Minute).Should(BeEmpty())
	})

	It("are not served unless the caller says how", func() {
		proxy := newFakeProxy()
		proxy.table = table([]netip.Addr{loopback}, web(1))
		s := start(proxyhealth.Config{Proxy: proxy})
		proxy.record(proxyrules.SyncRecord{})
		Expect(s.Problems()).To(BeEmpty())
	})
})
