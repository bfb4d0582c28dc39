package statusserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-logr/logr"
)

// ReadOnlyPort is where kubelets of old served without authentication, and
// where tools still look.
const ReadOnlyPort = 10255

// Config says what is served, to whom. All of it may be left out: what has no
// provider answers 404 and says so.
type Config struct {
	// Listeners say where to listen. None is none: Run then only waits.
	Listeners []Listener

	// NodeName stands in the title of the page. "" shows none.
	NodeName string

	// Pods feeds /pods, /runningpods/ and the page's table. nil: not served.
	Pods PodsProvider
	// Spec feeds /spec. nil: not served.
	Spec SpecProvider
	// Stats feeds /stats/summary and the page's curves. nil: not served.
	Stats StatsProvider
	// Metrics feeds /metrics. nil: MetricsHandler is asked.
	Metrics MetricsWriter
	// MetricsHandler serves /metrics in place of Metrics, such as
	// promhttp.Handler(). nil: not served. Not both.
	MetricsHandler http.Handler
	// ContainerMetrics feeds /metrics/cadvisor. nil: not served.
	ContainerMetrics MetricsWriter
	// ResourceMetrics feeds /metrics/resource. nil: not served.
	ResourceMetrics MetricsWriter
	// OpenMetrics feeds the paths /metrics, /metrics/cadvisor and
	// /metrics/resource, by path, to clients that prefer OpenMetrics 1.0.0; each
	// writes the # EOF. nil, or a path without: they get the text format.
	OpenMetrics map[string]MetricsWriter
	// Burden feeds /burden and the page's table of who burdens the node. nil:
	// not served.
	Burden BurdenProvider
	// Logs feeds /containerLogs. nil: not served.
	Logs LogsProvider
	// Why feeds /why and the page's explanations. nil: not served.
	Why WhyProvider
	// Trace feeds /proxy/trace and the page's packet explainer. nil: not served.
	Trace TraceProvider
	// Checks make up /healthz, /livez and /readyz, in this order, after "ping",
	// which is always there. nil: ping alone.
	Checks []Check
	// UI serves the page at /ui/. false: not served.
	UI bool

	// MaxStreams bounds the streams (followed logs, event streams of the page)
	// of all clients together. 0 is 256.
	MaxStreams int
	// MaxStreamsPerClient bounds the streams of one client address, or of one
	// user of a unix socket. 0 is 32.
	MaxStreamsPerClient int

	// OnListen is called once by Run with the addresses that are bound, in the
	// order of Listeners, before the first request is served. nil: not called.
	OnListen func(bound []net.Addr)

	// Logger says at V(0) where the server listens, at V(4) what it refuses,
	// and as errors what providers could not give. The zero value discards.
	Logger logr.Logger
}

// A Listener is one place to listen and who may ask there.
type Listener struct {
	// Network is tcp or unix. "" is tcp.
	Network string
	// Address is required: host:port, where an empty host is refused because it
	// means every interface (say 0.0.0.0 or [::] if you want that), or the
	// absolute path of the unix socket, which is made with mode 0600.
	Address string
	// Authorizer is required: it is asked for each request.
	Authorizer Authorizer
	// Hosts are the names, without ports, that the Host header may have besides
	// IP addresses and localhost, against DNS rebinding. nil: no more names.
	Hosts []string
	// TLSConfig serves HTTPS. nil: HTTP.
	TLSConfig *tls.Config
}

// LoopbackListener gives a listener on a port of 127.0.0.1 that shows all and
// changes nothing, to processes of this machine. Port 0 takes a free port.
func LoopbackListener(port int) Listener {
	return Listener{
		Address:    fmt.Sprintf("127.0.0.1:%d", port),
		Authorizer: Every{LoopbackOnly{}, ReadOnly{}},
	}
}

func (l Listener) network() string {
	if l.Network == "" {
		return "tcp"
	}
	return l.Network
}

func (l Listener) validate() error {
	var errs []error
	switch l.network() {
	case "tcp":
		if host, _, err := net.SplitHostPort(l.Address); err != nil {
			errs = append(errs, fmt.Errorf("address %q: want host:port", l.Address))
		} else if host == "" {
			errs = append(errs, fmt.Errorf("address %q: name the host, 0.0.0.0 or [::] for every interface", l.Address))
		}
	case "unix":
		if !filepath.IsAbs(l.Address) {
			errs = append(errs, fmt.Errorf("address %q: want an absolute path", l.Address))
		}
	default:
		errs = append(errs, fmt.Errorf("network %q: want tcp or unix", l.Network))
	}
	if l.Authorizer == nil {
		errs = append(errs, errors.New("no authorizer: say who may ask, for example LoopbackOnly{}"))
	}
	return errors.Join(errs...)
}

var checkName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// validate reports all bad fields together.
func (c *Config) validate() error {
	var errs []error
	for i, l := range c.Listeners {
		if err := l.validate(); err != nil {
			errs = append(errs, fmt.Errorf("field Listeners[%d]: %w", i, err))
		}
	}
	if c.Metrics != nil && c.MetricsHandler != nil {
		errs = append(errs, errors.New("both Metrics and MetricsHandler are set: only one can serve /metrics"))
	}
	for _, path := range slices.Sorted(maps.Keys(c.OpenMetrics)) {
		text, known := map[string]bool{"/metrics": c.Metrics != nil, "/metrics/cadvisor": c.ContainerMetrics != nil, "/metrics/resource": c.ResourceMetrics != nil}[path]
		if !known {
			errs = append(errs, fmt.Errorf("field OpenMetrics: %q is not /metrics, /metrics/cadvisor or /metrics/resource", path))
		} else if !text || c.OpenMetrics[path] == nil {
			errs = append(errs, fmt.Errorf("field OpenMetrics: %s has to have a writer, here and for the text format", path))
		}
	}
	names := []string{"ping"}
	for i, check := range c.Checks {
		switch {
		case !checkName.MatchString(check.Name):
			errs = append(errs, fmt.Errorf("field Checks[%d].Name: %q: want only a-z, 0-9, dot and dash", i, check.Name))
		case slices.Contains(names, check.Name):
			errs = append(errs, fmt.Errorf("field Checks[%d].Name: %q is taken", i, check.Name))
		}
		names = append(names, check.Name)
		if check.Check == nil {
			errs = append(errs, fmt.Errorf("field Checks[%d].Check: required", i))
		}
	}
	if c.MaxStreams < 0 {
		errs = append(errs, fmt.Errorf("field MaxStreams: %d is negative", c.MaxStreams))
	}
	if c.MaxStreamsPerClient < 0 {
		errs = append(errs, fmt.Errorf("field MaxStreamsPerClient: %d is negative", c.MaxStreamsPerClient))
	}
	if strings.ContainsFunc(c.NodeName, func(r rune) bool { return r < ' ' }) {
		errs = append(errs, fmt.Errorf("field NodeName: %q has control characters", c.NodeName))
	}
	return errors.Join(errs...)
}

// withDefaults gives a copy that shares no slice with c.
func (c Config) withDefaults() Config {
	c.Listeners = slices.Clone(c.Listeners)
	for i := range c.Listeners {
		l := &c.Listeners[i]
		l.Hosts = slices.Clone(l.Hosts)
		for j, host := range l.Hosts {
			l.Hosts[j] = strings.ToLower(host)
		}
		if l.TLSConfig != nil {
			l.TLSConfig = l.TLSConfig.Clone()
		}
	}
	c.Checks = slices.Clone(c.Checks)
	c.OpenMetrics = maps.Clone(c.OpenMetrics)
	if c.MaxStreams == 0 {
		c.MaxStreams = 256
	}
	if c.MaxStreamsPerClient == 0 {
		c.MaxStreamsPerClient = 32
	}
	if c.Logger.GetSink() == nil {
		c.Logger = logr.Discard()
	}
	return c
}
