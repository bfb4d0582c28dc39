package statusserver_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"strings"

	"github.com/google/cadvisor/lib/model"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/statusserver"
)

func addrPort(s string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(s)
	return a
}

var _ = Describe("The endpoints", func() {
	It("serve pods as the API server writes them", func(ctx SpecContext) {
		url := serveOne(full())
		a := get(ctx, url+"/pods")
		Expect(a.status).To(Equal(http.StatusOK))
		Expect(a.header.Get("Content-Type")).To(Equal("application/json"))
		var list corev1.PodList
		Expect(json.Unmarshal([]byte(a.body), &list)).To(Succeed())
		Expect(list.Kind).To(Equal("PodList"))
		Expect(list.APIVersion).To(Equal("v1"))
		Expect(list.Items).To(HaveLen(2))
		Expect(list.Items[0].Kind).To(BeEmpty())
		Expect(list.Items[0].Status.PodIP).To(Equal("10.88.0.2"))

		for _, path := range []string{"/runningpods/", "/runningpods"} {
			list = corev1.PodList{}
			Expect(json.Unmarshal([]byte(get(ctx, url+path).body), &list)).To(Succeed())
			Expect(list.Items).To(HaveLen(1))
			Expect(list.Items[0].Name).To(Equal("web-0"))
		}
	})

	It("serve an empty list, never null", func(ctx SpecContext) {
		config := full()
		config.Pods = statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) { return nil, nil })
		Expect(get(ctx, serveOne(config)+"/pods").body).To(ContainSubstring(`"items":[]`))
	})

	It("serve the machine", func(ctx SpecContext) {
		a := get(ctx, serveOne(full())+"/spec")
		var info model.MachineInfo
		Expect(json.Unmarshal([]byte(a.body), &info)).To(Succeed())
		Expect(info.NumCores).To(Equal(2))
		Expect(a.body).To(ContainSubstring(`"memory_capacity":1073741824`))
	})

	It("serve usage, and only what is asked for", func(ctx SpecContext) {
		url := serveOne(full())
		var summary stats.Summary
		Expect(json.Unmarshal([]byte(get(ctx, url+"/stats/summary").body), &summary)).To(Succeed())
		Expect(*summary.Node.CPU.UsageNanoCores).To(Equal(uint64(250e6)))
		Expect(summary.Node.Network).NotTo(BeNil())
		summary = stats.Summary{}
		Expect(json.Unmarshal([]byte(get(ctx, url+"/stats/summary?only_cpu_and_memory=true").body), &summary)).To(Succeed())
		Expect(summary.Node.Network).To(BeNil())
		Expect(get(ctx, url+"/stats/summary?only_cpu_and_memory=perhaps").status).To(Equal(http.StatusBadRequest))
	})

	It("serve metrics, each from its own writer", func(ctx SpecContext) {
		url := serveOne(full())
		for path, body := range map[string]string{
			"/metrics": "up 1\n", "/metrics/cadvisor": "container 1\n", "/metrics/resource": "resource 1\n",
		} {
			a := get(ctx, url+path)
			Expect(a.status).To(Equal(http.StatusOK))
			Expect(a.header.Get("Content-Type")).To(Equal("text/plain; version=0.0.4; charset=utf-8"))
			Expect(a.body).To(Equal(body))
		}
	})

	It("serve metrics from a handler such as promhttp's", func(ctx SpecContext) {
		config := full()
		config.Metrics = nil
		config.MetricsHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "handled 1\n") })
		Expect(get(ctx, serveOne(config)+"/metrics").body).To(Equal("handled 1\n"))
	})

	It("throw away half an exposition", func(ctx SpecContext) {
		config := full()
		config.ContainerMetrics = statusserver.MetricsFunc(func(_ context.Context, w io.Writer) error {
			_, _ = io.WriteString(w, "half 1\n")
			return errors.New("cgroup is gone")
		})
		a := get(ctx, serveOne(config)+"/metrics/cadvisor")
		Expect(a.status).To(Equal(http.StatusInternalServerError))
		Expect(a.body).To(Equal("gather metrics: cgroup is gone\n"))
	})

	It("explain pods as JSON and text", func(ctx SpecContext) {
		url := serveOne(full()) + "/why/default/web-0"
		Expect(get(ctx, url).body).To(MatchJSON(`{"pod":"default/web-0"}`))
		for _, a := range []answer{get(ctx, url+"?format=text"), get(ctx, url, "Accept: text/plain, application/json;q=0.5")} {
			Expect(a.header.Get("Content-Type")).To(Equal("text/plain; charset=utf-8"))
			Expect(a.body).To(Equal("text of default/web-0\n"))
		}
		Expect(get(ctx, url, "Accept: application/json, text/plain").body).To(HavePrefix("{"))
		Expect(get(ctx, url+"?format=json", "Accept: text/plain").body).To(HavePrefix("{"))
		Expect(get(ctx, strings.Replace(url, "web-0", "nobody", 1)).status).To(Equal(http.StatusNotFound))
	})

	It("explain packets as JSON and text", func(ctx SpecContext) {
		url := serveOne(full()) + "/proxy/trace"
		Expect(get(ctx, url+"?from=10.88.0.3&to=10.96.0.10:80&proto=UDP").body).To(MatchJSON(`{"verdict":"10.88.0.3 10.96.0.10:80 udp"}`))
		Expect(get(ctx, url+"?to=[::ffff:10.96.0.10]:80&format=text").body).To(Equal("text of invalid IP 10.96.0.10:80 tcp\n"))
		for _, query := range []string{"", "?to=10.96.0.10", "?to=10.96.0.10:0", "?to=web:80", "?to=1.2.3.4:5&from=web", "?to=1.2.3.4:5&proto=icmp", "?to=[fe80::1%25eth0]:5", "?to=1.2.3.4:5&from=fe80::1%25eth0"} {
			Expect(get(ctx, url+query).status).To(Equal(http.StatusBadRequest), query)
		}
	})

	It("refuse words of a query that they do not know, by name", func(ctx SpecContext) {
		url := serveOne(full())
		for path, word := range map[string]string{
			"/why/default/web-0?container=app": "container", "/why/default/web-0?format=yaml": "yaml",
			"/proxy/trace?to=1.2.3.4:5&protocol=udp": "protocol",
		} {
			a := get(ctx, url+path)
			Expect(a.status).To(Equal(http.StatusBadRequest), path)
			Expect(a.body).To(ContainSubstring(word), path)
		}
	})

	It("say what is not wired, and what does not exist", func(ctx SpecContext) {
		url := serveOne(statusserver.Config{})
		for path, field := range map[string]string{
			"/pods": "Pods", "/runningpods/": "Pods", "/spec": "Spec", "/stats/summary": "Stats", "/metrics": "Metrics",
			"/metrics/cadvisor": "ContainerMetrics", "/metrics/resource": "ResourceMetrics", "/containerLogs/a/b/c": "Logs",
			"/why/a/b": "Why", "/proxy/trace": "Trace", "/ui/": "UI", "/ui": "UI", "/ui/events": "UI", "/": "UI",
		} {
			a := get(ctx, url+path)
			Expect(a.status).To(Equal(http.StatusNotFound), path)
			Expect(a.body).To(ContainSubstring("not wired: this agent gave the status server no "+field), path)
		}
		a := get(ctx, url+"/nothing/here")
		Expect(a.status).To(Equal(http.StatusNotFound))
		Expect(a.body).To(ContainSubstring("no such path"))
	})

	DescribeTable("give errors of providers the right status",
		func(ctx SpecContext, err error, status int) {
			config := full()
			config.Pods = statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) { return nil, err })
			Expect(get(ctx, serveOne(config)+"/pods").status).To(Equal(status))
		},
		Entry("not found", statusserver.ErrNotFound, http.StatusNotFound),
		Entry("no file", fs.ErrNotExist, http.StatusNotFound),
		Entry("nonsense", statusserver.ErrInvalid, http.StatusBadRequest),
		Entry("too slow", context.DeadlineExceeded, http.StatusGatewayTimeout),
		Entry("another", errors.New("broken"), http.StatusInternalServerError),
	)

	It("compress what is big for those who can read it", func(ctx SpecContext) {
		config := full()
		big := strings.Repeat("metric 1\n", 10_000)
		config.Metrics = statusserver.MetricsFunc(func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, big); return err })
		url := serveOne(config) + "/metrics"
		a := get(ctx, url, "Accept-Encoding: br, gzip;q=0.5")
		Expect(a.header.Get("Content-Encoding")).To(Equal("gzip"))
		Expect(len(a.body)).To(BeNumerically("<", len(big)/10))
		z, err := gzip.NewReader(strings.NewReader(a.body))
		Expect(err).NotTo(HaveOccurred())
		plain, err := io.ReadAll(z)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(plain) == big).To(BeTrue())
		for _, accept := range []string{"identity", "gzip;q=0"} {
			a := get(ctx, url, "Accept-Encoding: "+accept)
			Expect(a.header).NotTo(HaveKey("Content-Encoding"))
			Expect(a.body == big).To(BeTrue())
		}
	})

	It("answer HEAD without a body", func(ctx SpecContext) {
		url := serveOne(full())
		for _, path := range []string{"/pods", "/healthz", "/ui/", "/ui/events", "/containerLogs/default/web-0/main?follow=true"} {
			a := do(ctx, http.MethodHead, url+path, nil)
			Expect(a.status).To(Equal(http.StatusOK), path)
			Expect(a.body).To(BeEmpty(), path)
		}
	})
})

var _ = Describe("The health checks", func() {
	config := func(broken error) statusserver.Config {
		return statusserver.Config{Checks: []statusserver.Check{
			{Name: "loop", Check: func(context.Context) error { return nil }},
			{Name: "runtime", Check: func(context.Context) error { return broken }, ReadyOnly: true},
		}}
	}

	It("say ok, or all of it", func(ctx SpecContext) {
		url := serveOne(config(nil))
		for _, endpoint := range []string{"healthz", "livez", "readyz"} {
			a := get(ctx, url+"/"+endpoint)
			Expect(a.status).To(Equal(http.StatusOK))
			Expect(a.body).To(Equal("ok"))
		}
		Expect(get(ctx, url+"/readyz?verbose").body).To(Equal("[+]ping ok\n[+]loop ok\n[+]runtime ok\nreadyz check passed\n"))
		Expect(get(ctx, url+"/livez?verbose").body).To(Equal("[+]ping ok\n[+]loop ok\nlivez check passed\n"))
		Expect(get(ctx, url+"/healthz/runtime").body).To(Equal("ok"))
		Expect(get(ctx, url+"/livez/runtime").status).To(Equal(http.StatusNotFound))
	})

	It("say what failed, and the reason only to those who ask for the check", func(ctx SpecContext) {
		url := serveOne(config(errors.New("socket refused")))
		a := get(ctx, url+"/readyz")
		Expect(a.status).To(Equal(http.StatusInternalServerError))
		Expect(a.body).To(Equal("[+]ping ok\n[+]loop ok\n[-]runtime failed: reason withheld\nreadyz check failed\n"))
		Expect(get(ctx, url+"/livez").status).To(Equal(http.StatusOK))
		a = get(ctx, url+"/healthz/runtime")
		Expect(a.status).To(Equal(http.StatusInternalServerError))
		Expect(a.body).To(Equal("internal server error: socket refused\n"))
	})

	It("leave out what is excluded", func(ctx SpecContext) {
		url := serveOne(config(errors.New("socket refused")))
		a := get(ctx, url+"/readyz?verbose&exclude=runtime&exclude=nothing")
		Expect(a.status).To(Equal(http.StatusOK))
		Expect(a.body).To(Equal("[+]ping ok\n[+]loop ok\n[+]runtime excluded: ok\n" +
			"warn: some health checks cannot be excluded: no matches for [\"nothing\"]\nreadyz check passed\n"))
	})
})
