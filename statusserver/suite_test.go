package statusserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/cadvisor/lib/model"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/statusserver"
)

func TestStatusserver(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute) // for a machine that is busy
	RunSpecs(t, "statusserver")
}

// serve runs a server with the config until the end of the spec and gives the
// addresses it is bound to. Without listeners it gets a loopback one.
func serve(config statusserver.Config) []net.Addr {
	GinkgoHelper()
	before := goleak.IgnoreCurrent()
	if config.Listeners == nil {
		config.Listeners = []statusserver.Listener{statusserver.LoopbackListener(0)}
	}
	bound := make(chan []net.Addr, 1)
	config.OnListen = func(addrs []net.Addr) { bound <- addrs }
	server, err := statusserver.New(config)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	DeferCleanup(func(ctx SpecContext) {
		cancel()
		Eventually(ctx, ended).WithTimeout(time.Minute).Should(Receive(BeNil()))
		http.DefaultClient.CloseIdleConnections()
		Expect(goleak.Find(before)).To(Succeed())
	})
	var addrs []net.Addr
	Eventually(bound).WithTimeout(time.Minute).Should(Receive(&addrs))
	return addrs
}

// serveOne gives the base URL of a server on loopback.
func serveOne(config statusserver.Config) string {
	GinkgoHelper()
	return "http://" + serve(config)[0].String()
}

type answer struct {
	status int
	header http.Header
	body   string
}

// get asks, with header fields as "Name: value".
func get(ctx context.Context, url string, fields ...string) answer {
	GinkgoHelper()
	return do(ctx, http.MethodGet, url, nil, fields...)
}

func do(ctx context.Context, method, url string, body io.Reader, fields ...string) answer {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	Expect(err).NotTo(HaveOccurred())
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if name == "Host" {
			request.Host = value
		}
		request.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return answer{response.StatusCode, response.Header, string(data)}
}

// explained has a text and a JSON form.
type explained struct {
	Pod     string `json:"pod,omitempty"`
	Verdict string `json:"verdict,omitempty"`
}

func (e explained) String() string { return "text of " + e.Pod + e.Verdict }

func ptr[T any](v T) *T { return &v }

func examplePods() *corev1.PodList {
	running := corev1.ContainerStatus{
		Name: "main", Ready: true, RestartCount: 2,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1000, 0)}},
	}
	return &corev1.PodList{Items: []corev1.Pod{
		{
			TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0", UID: "u0"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, PodIP: "10.88.0.2",
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
				ContainerStatuses: []corev1.ContainerStatus{running},
			},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "job-0", UID: "u1"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "job:1"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		},
	}}
}

// full has a provider for everything.
func full() statusserver.Config {
	return statusserver.Config{
		NodeName: "node-a",
		UI:       true,
		Pods:     statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) { return examplePods(), nil }),
		Spec: statusserver.SpecFunc(func(context.Context) (*model.MachineInfo, error) {
			return &model.MachineInfo{NumCores: 2, MemoryCapacity: 1 << 30}, nil
		}),
		Stats: statusserver.StatsFunc(func(_ context.Context, only bool) (*stats.Summary, error) {
			s := &stats.Summary{
				Node: stats.NodeStats{NodeName: "node-a", CPU: &stats.CPUStats{UsageNanoCores: ptr[uint64](250e6)}, Memory: &stats.MemoryStats{WorkingSetBytes: ptr[uint64](64 << 20)}},
				Pods: []stats.PodStats{{PodRef: stats.PodReference{Namespace: "default", Name: "web-0", UID: "u0"}, CPU: &stats.CPUStats{UsageNanoCores: ptr[uint64](100e6)}}},
			}
			if !only {
				s.Node.Network = &stats.NetworkStats{}
			}
			return s, nil
		}),
		Metrics:          statusserver.MetricsFunc(func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "up 1\n"); return err }),
		ContainerMetrics: statusserver.MetricsFunc(func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "container 1\n"); return err }),
		ResourceMetrics:  statusserver.MetricsFunc(func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "resource 1\n"); return err }),
		Logs: statusserver.LogsFunc(func(_ context.Context, _, _, _ string, _ *corev1.PodLogOptions, out, errs io.Writer) error {
			_, err := io.WriteString(out, "out\n")
			_, err2 := io.WriteString(errs, "err\n")
			return errors.Join(err, err2)
		}),
		Why: statusserver.WhyFunc(func(_ context.Context, ns, pod string) (fmt.Stringer, error) {
			if pod != "web-0" {
				return nil, fmt.Errorf("pod %s/%s: %w", ns, pod, statusserver.ErrNotFound)
			}
			return explained{Pod: ns + "/" + pod}, nil
		}),
		Trace: statusserver.TraceFunc(func(_ context.Context, from netip.Addr, to netip.AddrPort, proto string) (fmt.Stringer, error) {
			return explained{Verdict: fmt.Sprintf("%v %v %v", from, to, proto)}, nil
		}),
	}
}
