package statusserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/statusserver"
)

// everyone allows all, so that only the guards are left to refuse.
type everyone struct{}

func (everyone) Authorize(context.Context, statusserver.Attributes) error { return nil }

// witness remembers what it was asked.
type witness struct {
	asked chan statusserver.Attributes
	err   error
}

func (w witness) Authorize(_ context.Context, a statusserver.Attributes) error {
	w.asked <- a
	return w.err
}

// raw sends bytes and gives all that comes back.
func raw(addr net.Addr, request string) string {
	GinkgoHelper()
	conn, err := net.Dial(addr.Network(), addr.String())
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = conn.Close() }()
	Expect(conn.SetDeadline(time.Now().Add(20 * time.Second))).To(Succeed())
	_, _ = io.WriteString(conn, request) // the server may hang up before all is sent,
	data, _ := io.ReadAll(conn)          // and reset the connection after its answer
	return string(data)
}

var _ = Describe("The guards", func() {
	It("ask the authorizer for each endpoint, in the words of Kubernetes", func(ctx SpecContext) {
		w := witness{asked: make(chan statusserver.Attributes, 1), err: errors.New("not you")}
		config := full()
		config.Listeners = []statusserver.Listener{{Address: "127.0.0.1:0", Authorizer: w}}
		url := serveOne(config)
		for path, subresource := range map[string]string{
			"/healthz": "healthz", "/livez": "healthz", "/readyz/ping": "healthz",
			"/pods": "pods", "/runningpods/": "pods", "/spec": "spec", "/stats/summary": "stats",
			"/metrics": "metrics", "/metrics/cadvisor": "metrics", "/metrics/resource": "metrics",
			"/containerLogs/default/web-0/main": "proxy", "/why/default/web-0": "pods", "/proxy/trace": "proxy",
			"/ui": "proxy", "/ui/": "proxy", "/ui/index.html": "proxy", "/ui/events": "proxy", "/": "proxy", "/unknown": "proxy",
		} {
			a := get(ctx, url+path)
			Expect(a.status).To(Equal(http.StatusForbidden), path)
			Expect(a.body).To(Equal("not you\n"), path)
			var got statusserver.Attributes
			Expect(w.asked).To(Receive(&got), path)
			Expect(got.Verb).To(Equal("get"), path)
			Expect(got.Resource).To(Equal("nodes"), path)
			Expect(got.Subresource).To(Equal(subresource), path)
			Expect(got.Path).To(Equal(path))
			Expect(got.Host).To(Equal(strings.TrimPrefix(url, "http://")))
			Expect(got.Peer.Addr().IsLoopback()).To(BeTrue(), path)
		}
	})

	It("DNS rebinding: refuse a Host that is no name of the listener", func(ctx SpecContext) {
		config := full()
		config.Listeners = []statusserver.Listener{{Address: "127.0.0.1:0", Authorizer: everyone{}, Hosts: []string{"Node-A"}}}
		url := serveOne(config)
		for _, path := range []string{"/ui/", "/pods", "/healthz", "/proxy/trace?to=1.2.3.4:5"} {
			Expect(get(ctx, url+path, "Host: evil.example:10255").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Host: localhost.evil.example").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Host: 127.0.0.1.evil.example").status).To(Equal(http.StatusForbidden), path)
			for _, good := range []string{"localhost:1", "LOCALHOST.", "node-a:10255", "192.0.2.7", "[fd00::1]:10255"} {
				Expect(get(ctx, url+path, "Host: "+good).status).To(Equal(http.StatusOK), path+" "+good)
			}
		}
	})

	It("refuse what pages of other origins ask for", func(ctx SpecContext) {
		url := serveOne(full())
		for _, path := range []string{"/ui/", "/pods", "/healthz"} {
			Expect(get(ctx, url+path, "Origin: http://evil.example").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Origin: null").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Origin: "+strings.Replace(url, "http:", "https:", 1)).status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Origin: "+url).status).To(Equal(http.StatusOK), path)
			Expect(get(ctx, url+path, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe").status).To(Equal(http.StatusForbidden), path)
			Expect(get(ctx, url+path, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document").status).To(Equal(http.StatusOK), path)
			Expect(get(ctx, url+path, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors").status).To(Equal(http.StatusOK), path)
		}
	})

	It("send strict headers with every answer, good or bad", func(ctx SpecContext) {
		url := serveOne(full())
		for _, a := range []answer{
			get(ctx, url+"/ui/"), get(ctx, url+"/pods"), get(ctx, url+"/nothing"), get(ctx, url+"/pods", "Host: evil.example"),
			do(ctx, http.MethodPost, url+"/pods", nil),
		} {
			policy := a.header.Get("Content-Security-Policy")
			Expect(policy).To(ContainSubstring("default-src 'none'"))
			Expect(policy).To(ContainSubstring("frame-ancestors 'none'"))
			Expect(policy).NotTo(ContainSubstring("unsafe"))
			Expect(a.header.Get("X-Content-Type-Options")).To(Equal("nosniff"))
			Expect(a.header.Get("X-Frame-Options")).To(Equal("DENY"))
			Expect(a.header.Get("Referrer-Policy")).To(Equal("no-referrer"))
			Expect(a.header.Get("Cross-Origin-Resource-Policy")).To(Equal("same-origin"))
			Expect(a.header).NotTo(HaveKey("Access-Control-Allow-Origin"))
		}
	})

	It("allow no method but GET and HEAD", func(ctx SpecContext) {
		url := serveOne(full())
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} {
			a := do(ctx, method, url+"/pods", nil)
			Expect(a.status).To(Equal(http.StatusMethodNotAllowed), method)
			Expect(a.header.Get("Allow")).To(Equal("GET, HEAD"), method)
		}
	})

	It("CVE-2020-8551: read no body beyond the cap", func(ctx SpecContext) {
		config := full()
		config.Metrics = nil
		read := make(chan int64, 1)
		config.MetricsHandler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			read <- n
		})
		addr := serve(config)[0]
		got := raw(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n")
		Expect(got).To(HavePrefix("HTTP/1.1 413 "))
		Expect(read).NotTo(Receive(), "what says so beforehand is not read at all")
		raw(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"110000\r\n"+strings.Repeat("x", 0x110000)+"\r\n0\r\n\r\n")
		Eventually(ctx, read).Should(Receive(BeEquivalentTo(1<<20)), "what is of unknown length is cut off")
	})

	It("TOB-K8S-026, CVE-2024-9042: let no path through that leads out", func(ctx SpecContext) {
		config := full()
		config.Logs = statusserver.LogsFunc(func(_ context.Context, ns, pod, container string, _ *corev1.PodLogOptions, _, _ io.Writer) error {
			return fmt.Errorf("reached with %q %q %q", ns, pod, container)
		})
		url := serveOne(config)
		for _, path := range []string{
			"/containerLogs/default/..%2f..%2fetc/passwd", "/containerLogs/..%2f../x/y", "/containerLogs/default/web-0/..%2fother",
			"/containerLogs/default/web-0/%2e%2e", "/containerLogs/default/web-0/a%00b", "/containerLogs/default/web-0/a%5cb",
			"/containerLogs/default/web-0/-x", "/containerLogs/default/web-0/A", "/containerLogs/default/web%20-0/main",
			"/containerLogs/default/web-0/" + strings.Repeat("a", 64), "/containerLogs/a.b/web-0/main",
			"/why/default/..%2fx", "/why/..%2f/x", "/ui/..%2fpage.go", "/ui/%2e%2e/page.go", "/pods/../spec", "//evil.example/%2e%2e", "/ui//x",
		} {
			a := get(ctx, url+path)
			Expect(a.status).To(Or(Equal(http.StatusBadRequest), Equal(http.StatusNotFound)), path)
			Expect(a.body).NotTo(ContainSubstring("reached"), path)
			Expect(a.header).NotTo(HaveKey("Location"), path)
		}
	})

	It("hand on no name that is none", func(ctx SpecContext) {
		url := serveOne(full())
		for _, path := range []string{"/why/default/Web_0", "/why/a.b/web-0", "/why/default/" + strings.Repeat("a", 254)} {
			Expect(get(ctx, url+path).status).To(Equal(http.StatusBadRequest), path)
		}
	})

	It("CVE-2018-1002102, CVE-2020-8559: redirect nowhere but to the page", func(ctx SpecContext) {
		url := serveOne(full())
		for _, path := range []string{"/", "/ui"} {
			a := get(ctx, url+path)
			Expect(a.status).To(Equal(http.StatusFound))
			Expect(a.header.Get("Location")).To(Equal("/ui/"))
		}
	})

	It("CVE-2019-11248: serve no profiles", func(ctx SpecContext) {
		url := serveOne(full())
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/flags/v", "/debug/vars"} {
			Expect(get(ctx, url+path).status).To(Equal(http.StatusNotFound), path)
		}
	})

	It("CVE-2007-6750: hang up on a client that is slow to send its header", Label("slow"), func() {
		addr := serve(full())[0]
		conn, err := net.Dial("tcp", addr.String())
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET /pods HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		Expect(err).NotTo(HaveOccurred())
		Expect(conn.SetReadDeadline(time.Now().Add(30 * time.Second))).To(Succeed())
		_, err = bufio.NewReader(conn).ReadByte()
		Expect(err).To(Or(MatchError(io.EOF), MatchError(ContainSubstring("reset"))), "not our own deadline")
	})

	It("refuse a header that is too large", func() {
		addr := serve(full())[0]
		got := raw(addr, "GET /pods HTTP/1.1\r\nHost: localhost\r\nX-Big: "+strings.Repeat("x", 100<<10)+"\r\n\r\n")
		Expect(got).To(Or(HavePrefix("HTTP/1.1 431"), BeEmpty()))
	})

	It("count streams per client and in all", func(ctx SpecContext) {
		config := full()
		config.MaxStreamsPerClient = 2
		config.MaxStreams = 3
		config.Listeners = []statusserver.Listener{{Address: "127.0.0.1:0", Authorizer: everyone{}}}
		addr := serve(config)[0]
		open := func(local, path string) (net.Conn, string) {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
			conn, err := dialer.DialContext(ctx, "tcp", addr.String())
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = conn.Close() })
			_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			Expect(err).NotTo(HaveOccurred())
			status, err := bufio.NewReader(conn).ReadString('\n')
			Expect(err).NotTo(HaveOccurred())
			return conn, strings.TrimSpace(status)
		}
		const ok, many = "HTTP/1.1 200 OK", "HTTP/1.1 429 Too Many Requests"
		first, status := open("127.0.0.1", "/ui/events")
		Expect(status).To(Equal(ok))
		_, status = open("127.0.0.1", "/ui/events")
		Expect(status).To(Equal(ok))
		_, status = open("127.0.0.1", "/ui/events")
		Expect(status).To(Equal(many))
		_, status = open("127.0.0.1", "/containerLogs/default/web-0/main")
		Expect(status).To(Equal(many), "logs are counted too")
		_, status = open("127.0.0.1", "/pods")
		Expect(status).To(Equal(ok), "what is no stream is not counted")
		_, status = open("127.0.0.2", "/ui/events")
		Expect(status).To(Equal(ok))
		_, status = open("127.0.0.3", "/ui/events")
		Expect(status).To(Equal(many), "the cap of all")
		Expect(first.Close()).To(Succeed())
		Eventually(func() string {
			conn, status := open("127.0.0.1", "/ui/events")
			Expect(conn.Close()).To(Succeed())
			return status
		}).WithTimeout(time.Minute).Should(Equal(ok), "a stream that ended is free again")
	})
})
