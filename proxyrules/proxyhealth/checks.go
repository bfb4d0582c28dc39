package proxyhealth

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/nodekit/nodekit/proxyrules"
)

// retryListen is how long after a port could not be opened it is tried again.
const retryListen = 10 * time.Second

// check is one port that is served, or that could not be.
type check struct {
	service   string
	addresses []netip.Addr
	server    *http.Server // nil: not open
	problem   string
	serving   sync.WaitGroup
}

// follow opens and closes ports as the table wants, and tells whether all are open.
func (s *Server) follow(ctx context.Context) bool {
	table := s.config.Proxy.Table()
	if s.config.Listen == nil || table == nil {
		return true
	}
	wanted := make(map[uint16]proxyrules.HealthCheck, len(table.HealthChecks))
	for _, h := range table.HealthChecks {
		wanted[h.Port] = h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for port, c := range s.checks {
		h, stays := wanted[port]
		if stays && h.Service == c.service && c.server != nil && slices.Equal(c.addresses, table.Node.Addresses) {
			continue
		}
		if !stays || c.server != nil {
			s.config.Logger.V(4).Info("health check ends", "service", c.service, "port", port)
		}
		c.close()
		if !stays {
			delete(s.checks, port)
		}
	}
	all := true
	for port, h := range wanted {
		old := s.checks[port]
		if old != nil && old.server != nil {
			continue
		}
		c := s.open(ctx, port, h, table.Node.Addresses)
		if c.problem != "" && (old == nil || old.problem != c.problem) {
			s.config.Logger.Info("health check not served", "service", h.Service, "port", port, "reason", c.problem)
		}
		s.checks[port] = c
		all = all && c.server != nil
	}
	return all
}

// open serves one check at all addresses, or at none.
func (s *Server) open(ctx context.Context, port uint16, h proxyrules.HealthCheck, at []netip.Addr) *check {
	c := &check{service: h.Service, addresses: at}
	if len(at) == 0 {
		c.problem = "the node has no address"
		return c
	}
	var listeners []net.Listener
	for _, addr := range at {
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		l, err := s.config.Listen(ctx, network, netip.AddrPortFrom(addr, port).String())
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			c.problem = err.Error()
			return c
		}
		listeners = append(listeners, l)
	}
	c.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.tellCheck(w, port) }),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(logr.ToSlogHandler(s.config.Logger), slog.LevelInfo),
	}
	for _, l := range listeners {
		c.serving.Go(func() {
			if err := c.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.config.Logger.Error(err, "health check ended", "service", h.Service, "port", port)
			}
		})
	}
	s.config.Logger.V(4).Info("health check begins", "service", h.Service, "port", port)
	return c
}

func (c *check) close() {
	if c.server != nil {
		_ = c.server.Close() // it closes the listeners
		c.serving.Wait()
		c.server = nil
	}
}

func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for port, c := range s.checks {
		c.close()
		delete(s.checks, port)
	}
}

// serviceHealth is what a load balancer is told.
type serviceHealth struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// tellCheck answers for the Service that has the port now, whatever the path.
func (s *Server) tellCheck(w http.ResponseWriter, port uint16) {
	var answer serviceHealth
	if table := s.config.Proxy.Table(); table != nil {
		for _, h := range table.HealthChecks {
			if h.Port == port {
				answer.LocalEndpoints = h.LocalEndpoints
				answer.Service.Namespace, answer.Service.Name, _ = strings.Cut(h.Service, "/")
			}
		}
	}
	status := s.config.Proxy.Status()
	answer.ServiceProxyHealthy = s.healthy(&status)
	code := http.StatusServiceUnavailable
	if answer.LocalEndpoints > 0 && answer.ServiceProxyHealthy {
		code = http.StatusOK
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(answer.LocalEndpoints))
	respond(w, code, answer)
}

// Problems are the health checks that cannot be served, sorted by Service. It
// is nil if there is none.
func (s *Server) Problems() []proxyrules.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []proxyrules.Problem
	for port, c := range s.checks {
		if c.problem != "" {
			out = append(out, proxyrules.Problem{Service: c.service, Field: "spec.healthCheckNodePort",
				Reason: strconv.Itoa(int(port)) + " is not served: " + c.problem})
		}
	}
	slices.SortFunc(out, func(a, b proxyrules.Problem) int {
		return strings.Compare(a.Service+" "+a.Reason, b.Service+" "+b.Reason)
	})
	return out
}
