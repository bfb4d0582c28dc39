package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

type execer func(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error)

func (e execer) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	return e(ctx, id, spec)
}

func hostPort(address string) (string, int) {
	GinkgoHelper()
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	host, text, err := net.SplitHostPort(address)
	Expect(err).NotTo(HaveOccurred())
	port, err := strconv.Atoi(text)
	Expect(err).NotTo(HaveOccurred())
	return host, port
}

func httpProbe(port int, path string) *corev1.Probe {
	return &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Path: path, Port: intstr.FromInt(port), Scheme: corev1.URISchemeHTTP}}}
}

var _ = Describe("one attempt", func() {
	var prober *probe.Prober
	BeforeEach(func() {
		var err error
		prober, err = probe.NewProber(probe.ProberConfig{})
		Expect(err).NotTo(HaveOccurred())
	})

	verdict := func(ctx context.Context, target probe.Target, p *corev1.Probe) probe.Result {
		GinkgoHelper()
		result, _, err := prober.Probe(ctx, target, p)
		Expect(err).NotTo(HaveOccurred())
		return result
	}

	Describe("by HTTP", func() {
		var server *httptest.Server
		var last *http.Request
		var target probe.Target
		var port int
		BeforeEach(func() {
			last = nil
			mux := http.NewServeMux()
			mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
				code, _ := strconv.Atoi(r.PathValue("code"))
				w.WriteHeader(code)
				_, _ = io.WriteString(w, "body of "+r.PathValue("code"))
			})
			mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) {
				for range 100 {
					_, _ = io.WriteString(w, strings.Repeat("x", 1<<10))
				}
			})
			mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
						return
					}
				}
			})
			mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "half")
			})
			mux.HandleFunc("/local", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/status/500", http.StatusFound) })
			mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://192.0.2.1/status/500", http.StatusFound)
			})
			mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				last = r.Clone(context.Background())
				mux.ServeHTTP(w, r)
			})
			server = httptest.NewServer(handler)
			DeferCleanup(server.Close)
			target.Host, port = hostPort(server.URL)
		})

		DescribeTable("tells by the status code", func(ctx context.Context, code int, want probe.Result) {
			result, output, err := prober.Probe(ctx, target, httpProbe(port, fmt.Sprintf("/status/%d", code)))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(want))
			if want == probe.Failure {
				Expect(output).To(Equal(fmt.Sprintf("HTTP probe failed with statuscode: %d: body of %d", code, code)))
			}
		},
			Entry("200", 200, probe.Success), Entry("399", 399, probe.Success), Entry("304", 304, probe.Success),
			Entry("400", 400, probe.Failure), Entry("404", 404, probe.Failure), Entry("503", 503, probe.Failure))

		It("is known as kube-probe, unless a header says otherwise", func(ctx context.Context) {
			get := httpProbe(port, "/status/200?a=b")
			_, _, err := prober.Probe(ctx, target, get)
			Expect(err).NotTo(HaveOccurred())
			Expect(last.Header.Get("User-Agent")).To(Equal("kube-probe/1.37"))
			Expect(last.Header.Get("Accept")).To(Equal("*/*"))
			Expect(last.Header).NotTo(HaveKey("Accept-Encoding"))
			Expect(last.URL.RawQuery).To(Equal("a=b"))
			get.HTTPGet.HTTPHeaders = []corev1.HTTPHeader{{Name: "host", Value: "web.example"}, {Name: "User-Agent", Value: "me"},
				{Name: "Accept", Value: ""}, {Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}}
			_, _, err = prober.Probe(ctx, target, get)
			Expect(err).NotTo(HaveOccurred())
			Expect(last.Host).To(Equal("web.example"))
			Expect(last.Header.Get("User-Agent")).To(Equal("me"))
			Expect(last.Header).NotTo(HaveKey("Accept"))
			Expect(last.Header.Values("X-A")).To(Equal([]string{"1", "2"}))
		})

		It("reads 10 KiB and no more", func(ctx context.Context) {
			for _, path := range []string{"/big", "/endless"} {
				result, output, err := prober.Probe(ctx, target, httpProbe(port, path))
				Expect(err).NotTo(HaveOccurred())
				Expect(result).To(Equal(probe.Success))
				Expect(output).To(HaveLen(10 << 10))
			}
		})

		It("follows redirects on the same host only, and not for ever", func(ctx context.Context) {
			result, _, err := prober.Probe(ctx, target, httpProbe(port, "/local"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure), "the redirect's target is at 500")
			result, _, err = prober.Probe(ctx, target, httpProbe(port, "/away"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Success), "302 is seen, nobody is called elsewhere")
			result, output, err := prober.Probe(ctx, target, httpProbe(port, "/loop"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			Expect(output).To(ContainSubstring("stopped after 10 redirects"))
		})

		It("fails when there is no answer, half an answer or none in time", func(ctx context.Context) {
			result, output, err := prober.Probe(ctx, target, httpProbe(port, "/slow"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			Expect(output).To(ContainSubstring("deadline exceeded"))
			result, _, err = prober.Probe(ctx, target, httpProbe(port, "/cut"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			server.Close()
			result, output, err = prober.Probe(ctx, target, httpProbe(port, "/status/200"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			Expect(output).To(ContainSubstring("refused"))
		})

		It("does not verify certificates", func(ctx context.Context) {
			secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			DeferCleanup(secure.Close)
			_, port := hostPort(secure.URL)
			get := httpProbe(port, "/")
			get.HTTPGet.Scheme = corev1.URISchemeHTTPS
			Expect(verdict(ctx, target, get)).To(Equal(probe.Success))
		})

		It("finds named ports, and gives no verdict without one", func(ctx context.Context) {
			target.Container = &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
			get := httpProbe(0, "/status/200")
			get.HTTPGet.Port = intstr.FromString("web")
			Expect(verdict(ctx, target, get)).To(Equal(probe.Success))
			get.HTTPGet.Port = intstr.FromString("none")
			result, _, err := prober.Probe(ctx, target, get)
			Expect(err).To(MatchError(probe.ErrNoPort))
			Expect(result).To(Equal(probe.Unknown))
		})

		It("calls the host that the probe names", func(ctx context.Context) {
			get := httpProbe(port, "/status/200")
			get.HTTPGet.Host = target.Host
			Expect(verdict(ctx, probe.Target{Host: "192.0.2.1"}, get)).To(Equal(probe.Success))
		})

		It("gives no verdict when nobody waits any more", func(ctx context.Context) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			result, _, err := prober.Probe(ctx, target, httpProbe(port, "/slow"))
			Expect(err).To(MatchError(context.Canceled))
			Expect(result).To(Equal(probe.Unknown))
		})
	})

	It("by TCP", func(ctx context.Context) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		host, port := hostPort(listener.Addr().String())
		tcp := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}}
		Expect(verdict(ctx, probe.Target{Host: host}, tcp)).To(Equal(probe.Success))
		Expect(listener.Close()).To(Succeed())
		result, output, err := prober.Probe(ctx, probe.Target{Host: host}, tcp)
		Expect(err).NotTo(HaveOccurred())
		Expect(result).To(Equal(probe.Failure))
		Expect(output).To(ContainSubstring("refused"))
	})

	Describe("by command", func() {
		run := func(ctx context.Context, e execer) (probe.Result, string, error) {
			prober, err := probe.NewProber(probe.ProberConfig{Exec: e})
			Expect(err).NotTo(HaveOccurred())
			container := &corev1.Container{Env: []corev1.EnvVar{{Name: "FILE", Value: "/ok"}}}
			return prober.Probe(ctx, probe.Target{ContainerID: "c1", Container: container}, &corev1.Probe{TimeoutSeconds: 1,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "$(FILE)"}}}})
		}
		It("passes with 0", func(ctx context.Context) {
			result, output, err := run(ctx, func(_ context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
				Expect(id).To(Equal("c1"))
				Expect(spec.Command).To(Equal([]string{"cat", "/ok"}))
				_, _ = io.WriteString(spec.Stdout, "out ")
				_, _ = io.WriteString(spec.Stderr, "err")
				return 0, nil
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Success))
			Expect(output).To(Equal("out err"))
		})
		It("fails with another code, keeping 10 KiB of output", func(ctx context.Context) {
			result, output, err := run(ctx, func(_ context.Context, _ string, spec runtimeiface.ExecSpec) (int, error) {
				n, err := io.WriteString(spec.Stdout, strings.Repeat("x", 1<<20))
				Expect(n).To(Equal(1 << 20))
				return 3, err
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			Expect(output).To(HavePrefix("exit code 3: xxx"))
			Expect(len(output)).To(BeNumerically("<", 11<<10))
		})
		It("fails when it takes too long", func(ctx context.Context) {
			result, output, err := run(ctx, func(ctx context.Context, _ string, _ runtimeiface.ExecSpec) (int, error) {
				<-ctx.Done()
				return -1, ctx.Err()
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(probe.Failure))
			Expect(output).To(HavePrefix(`command ["cat" "/ok"] timed out after 1s`))
		})
		DescribeTable("says with a time-out how long the node was short of CPU",
			func(ctx context.Context, during time.Duration, known bool, want types.GomegaMatcher) {
				total := time.Hour
				short, err := probe.NewProber(probe.ProberConfig{
					Stalled: func() (time.Duration, bool) { return total, known },
					Exec: execer(func(ctx context.Context, _ string, _ runtimeiface.ExecSpec) (int, error) {
						<-ctx.Done()
						total += during
						return -1, ctx.Err()
					}),
				})
				Expect(err).NotTo(HaveOccurred())
				result, output, err := short.Probe(ctx, probe.Target{}, &corev1.Probe{TimeoutSeconds: 1,
					ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat"}}}})
				Expect(err).NotTo(HaveOccurred())
				Expect(result).To(Equal(probe.Failure))
				Expect(output).To(want)
			},
			Entry("most of it", 700*time.Millisecond, true, HaveSuffix("(for 700ms of that time something on the node had to wait for a CPU)")),
			Entry("hardly", 100*time.Millisecond, true, Not(ContainSubstring("CPU"))),
			Entry("nobody knows", 700*time.Millisecond, false, Not(ContainSubstring("CPU"))),
		)
		It("gives no verdict when it cannot be run", func(ctx context.Context) {
			result, _, err := run(ctx, func(context.Context, string, runtimeiface.ExecSpec) (int, error) {
				return 127, errors.New("no such file")
			})
			Expect(err).To(MatchError(`exec ["cat" "/ok"]: no such file`))
			Expect(result).To(Equal(probe.Unknown))
		})
		It("gives no verdict when nothing can run it", func(ctx context.Context) {
			result, _, err := prober.Probe(ctx, probe.Target{}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}})
			Expect(err).To(MatchError(ContainSubstring("nothing can run a command")))
			Expect(result).To(Equal(probe.Unknown))
		})
	})

	Describe("by gRPC", func() {
		serve := func(handler http.HandlerFunc) (string, int) {
			GinkgoHelper()
			server := httptest.NewUnstartedServer(handler)
			var protocols http.Protocols
			protocols.SetUnencryptedHTTP2(true)
			server.Config.Protocols = &protocols
			server.Start()
			DeferCleanup(server.Close)
			return hostPort(server.URL)
		}
		grpc := func(port int, service string) *corev1.Probe {
			return &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}}
		}
		DescribeTable("tells by the status", func(ctx context.Context, code string, message []byte, want probe.Result, text string) {
			host, port := serve(func(w http.ResponseWriter, r *http.Request) {
				defer GinkgoRecover()
				body, err := io.ReadAll(r.Body)
				Expect(err).NotTo(HaveOccurred())
				Expect(r.URL.Path).To(Equal("/grpc.health.v1.Health/Check"))
				Expect(r.ProtoMajor).To(Equal(2))
				Expect(r.Header.Get("Content-Type")).To(Equal("application/grpc"))
				Expect(body).To(Equal([]byte("\x00\x00\x00\x00\x05\x0a\x03web")))
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
				_, _ = w.Write(message)
				w.Header().Set("Grpc-Status", code)
				w.Header().Set("Grpc-Message", "words")
			})
			result, output, err := prober.Probe(ctx, probe.Target{Host: host}, grpc(port, "web"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result).To(Equal(want))
			Expect(output).To(Equal(text))
		},
			Entry("serving", "0", []byte("\x00\x00\x00\x00\x02\x08\x01"), probe.Success, "service healthy"),
			Entry("not serving", "0", []byte("\x00\x00\x00\x00\x02\x08\x02"), probe.Failure, `service unhealthy (responded with "NOT_SERVING")`),
			Entry("unknown is left out", "0", []byte("\x00\x00\x00\x00\x00"), probe.Failure, `service unhealthy (responded with "UNKNOWN")`),
			Entry("new fields", "0", []byte("\x00\x00\x00\x00\x07\x12\x01a\x08\x01\x18\x00"), probe.Success, "service healthy"),
			Entry("a server without the service", "12", nil, probe.Failure, `gRPC probe: status "12": words`),
			Entry("malformed", "0", []byte("\x00\x00\x00\x00\x09\x08\x01"), probe.Failure, "gRPC probe: malformed gRPC message"),
		)
		It("fails with a server of something else", func(ctx context.Context) {
			server := httptest.NewServer(http.NotFoundHandler())
			DeferCleanup(server.Close)
			host, port := hostPort(server.URL)
			Expect(verdict(ctx, probe.Target{Host: host}, grpc(port, ""))).To(Equal(probe.Failure))
		})
	})

	It("gives no verdict for an empty probe", func(ctx context.Context) {
		_, _, err := prober.Probe(ctx, probe.Target{}, &corev1.Probe{})
		Expect(err).To(HaveOccurred())
	})
})

func ExampleProber() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no database", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	u, _ := url.Parse(server.URL)

	prober, _ := probe.NewProber(probe.ProberConfig{})
	result, output, err := prober.Probe(context.Background(), probe.Target{Host: u.Hostname()}, &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.Parse(u.Port())}},
	})
	fmt.Printf("%s %q %v\n", result, output, err)
	// Output: failure "HTTP probe failed with statuscode: 503: no database\n" <nil>
}
