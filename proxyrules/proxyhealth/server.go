package proxyhealth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

// ErrStarted is what a second call of Run gives.
var ErrStarted = errors.New("proxy health was run before")

// Proxy is what a Server tells of.
type Proxy interface {
	Status() proxyrules.Status
	Table() *proxyrules.Table
	Syncs(ctx context.Context, after uint64) ([]proxyrules.SyncRecord, error)
}

var _ Proxy = (*proxyrules.Proxy)(nil)

// Config says what a Server tells of.
type Config struct {
	Proxy Proxy // required
	// Mode is what /proxyMode tells: required, such as "nftables".
	Mode string
	// Node gives the node's object, nil if there is none any more: /healthz is
	// 503 then, and when the node is being deleted or has the taint
	// ToBeDeletedByClusterAutoscaler. A nil func: the node stays.
	Node func() *corev1.Node
	// Overdue is how long an update may wait. 0: 1 minute, as kube-proxy's
	// default of twice its syncPeriod.
	Overdue time.Duration
	// Listen opens the ports of health checks; network is tcp4 or tcp6, address
	// has one of the node's. Nil: they are not served.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Clock is nil for the real one.
	Clock clock.PassiveClock
	// Logger's zero value discards.
	Logger logr.Logger
}

// Server tells how a Proxy fares. Its methods may be called at the same time.
type Server struct {
	config Config

	mu      sync.Mutex
	started bool
	figures figures
	checks  map[uint16]*check // by port
}

// New checks config. It does no I/O.
func New(config Config) (*Server, error) {
	var errs []error
	if config.Proxy == nil {
		errs = append(errs, errors.New("field Proxy is required"))
	}
	if config.Mode == "" {
		errs = append(errs, errors.New("field Mode is required"))
	}
	if config.Overdue < 0 {
		errs = append(errs, errors.New("field Overdue must not be negative"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("proxy health config: %w", errors.Join(errs...))
	}
	if config.Overdue == 0 {
		config.Overdue = time.Minute
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Server{config: config, figures: newFigures(), checks: map[uint16]*check{}}, nil
}

// Run gathers figures and keeps the ports of health checks as the proxy's table
// wants them, until ctx ends; then it closes them and returns nil.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	started := s.started
	s.started = true
	s.mu.Unlock()
	if started {
		return ErrStarted
	}
	// A proxy that had run before has its rules already.
	open := s.follow(ctx)
	defer s.close()
	for after := uint64(0); ctx.Err() == nil; {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if !open {
			wait, cancel = context.WithTimeout(ctx, retryListen)
		}
		records, _ := s.config.Proxy.Syncs(wait, after) // it only ever fails as wait ends
		cancel()
		if len(records) > 0 {
			after = records[len(records)-1].Number
			s.count(records)
		}
		open = s.follow(ctx)
	}
	return nil
}

func (s *Server) count(records []proxyrules.SyncRecord) {
	families := families(s.config.Proxy.Table())
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range records {
		s.figures.add(&records[i], families)
	}
}

// Handler serves /healthz, /livez, /metrics and /proxyMode, to GET and HEAD.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.tell(w, true) })
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { s.tell(w, false) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(s.metrics())
	})
	mux.HandleFunc("GET /proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(s.config.Mode))
	})
	return mux
}
