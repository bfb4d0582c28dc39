package statusserver

import (
	"fmt"
	"net/http"
)

// route is one endpoint and what it asks the authorizer for. All of them only
// show, so the verb is get; it is written down because it must not follow from
// the HTTP method.
type route struct {
	pattern     string
	subresource string
	field       string // of Config, that the endpoint needs
	wired       bool
	stream      bool // counted, and allowed to last
	handle      http.HandlerFunc
}

const verbGet = "get"

func (s *Server) routes() []route {
	c := &s.config
	return []route{
		{pattern: "/healthz", subresource: "healthz", wired: true, handle: s.health("healthz")},
		{pattern: "/healthz/{check}", subresource: "healthz", wired: true, handle: s.oneCheck("healthz")},
		{pattern: "/livez", subresource: "healthz", wired: true, handle: s.health("livez")},
		{pattern: "/livez/{check}", subresource: "healthz", wired: true, handle: s.oneCheck("livez")},
		{pattern: "/readyz", subresource: "healthz", wired: true, handle: s.health("readyz")},
		{pattern: "/readyz/{check}", subresource: "healthz", wired: true, handle: s.oneCheck("readyz")},
		{pattern: "/pods", subresource: "pods", field: "Pods", wired: c.Pods != nil, handle: s.pods},
		{pattern: "/pods/{$}", subresource: "pods", field: "Pods", wired: c.Pods != nil, handle: s.pods},
		{pattern: "/runningpods", subresource: "pods", field: "Pods", wired: c.Pods != nil, handle: s.runningPods},
		{pattern: "/runningpods/{$}", subresource: "pods", field: "Pods", wired: c.Pods != nil, handle: s.runningPods},
		{pattern: "/spec", subresource: "spec", field: "Spec", wired: c.Spec != nil, handle: s.spec},
		{pattern: "/spec/{$}", subresource: "spec", field: "Spec", wired: c.Spec != nil, handle: s.spec},
		{pattern: "/stats/summary", subresource: "stats", field: "Stats", wired: c.Stats != nil, handle: s.summary},
		{pattern: "/metrics", subresource: "metrics", field: "Metrics", wired: c.Metrics != nil || c.MetricsHandler != nil, handle: s.metrics},
		{pattern: "/metrics/cadvisor", subresource: "metrics", field: "ContainerMetrics", wired: c.ContainerMetrics != nil, handle: s.exposition(c.ContainerMetrics, c.OpenMetrics["/metrics/cadvisor"])},
		{pattern: "/metrics/resource", subresource: "metrics", field: "ResourceMetrics", wired: c.ResourceMetrics != nil, handle: s.exposition(c.ResourceMetrics, c.OpenMetrics["/metrics/resource"])},
		{pattern: "/containerLogs/{namespace}/{pod}/{container}", subresource: "proxy", field: "Logs", wired: c.Logs != nil, stream: true, handle: s.containerLogs},
		{pattern: "/burden", subresource: "stats", field: "Burden", wired: c.Burden != nil, handle: s.burden},
		{pattern: "/why/{namespace}/{pod}", subresource: "pods", field: "Why", wired: c.Why != nil, handle: s.why},
		{pattern: "/proxy/trace", subresource: "proxy", field: "Trace", wired: c.Trace != nil, handle: s.trace},
		{pattern: "/ui/events", subresource: "proxy", field: "UI", wired: c.UI, stream: true, handle: s.events},
		{pattern: "/ui", subresource: "proxy", field: "UI", wired: c.UI, handle: toPage},
		{pattern: "/ui/{file...}", subresource: "proxy", field: "UI", wired: c.UI, handle: s.pageFile},
		{pattern: "/{$}", subresource: "proxy", field: "UI", wired: c.UI, handle: toPage},
		{pattern: "/", subresource: "proxy", wired: true, handle: unknownPath},
	}
}

// handler gives all endpoints behind the guards of one listener.
func (s *Server) handler(l Listener) http.Handler {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.Handle(rt.pattern, s.endpoint(l, rt))
	}
	return s.guard(l, mux)
}

func (s *Server) endpoint(l Listener, rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := r.Context().Value(connKey{}).(peer)
		if err := l.Authorizer.Authorize(r.Context(), Attributes{
			Verb:        verbGet,
			Resource:    "nodes",
			Subresource: rt.subresource,
			Path:        r.URL.Path,
			Host:        r.Host,
			Peer:        from.addr,
			Unix:        from.unix,
			PeerUID:     from.uid,
		}); err != nil {
			s.config.Logger.V(4).Info("request not authorized", "path", r.URL.Path, "remote", r.RemoteAddr, "reason", err.Error())
			fail(w, http.StatusForbidden, err.Error())
			return
		}
		if !rt.wired {
			fail(w, http.StatusNotFound, fmt.Sprintf("%s is not wired: this agent gave the status server no %s", r.URL.Path, rt.field))
			return
		}
		if rt.stream {
			release, ok := s.streams.take(from.client())
			if !ok {
				w.Header().Set("Retry-After", "5")
				fail(w, http.StatusTooManyRequests, fmt.Sprintf("too many streams are open: at most %d, and %d of one client",
					s.config.MaxStreams, s.config.MaxStreamsPerClient))
				return
			}
			defer release()
			ctx, cancel := s.streamContext(r.Context())
			defer cancel()
			r = r.WithContext(ctx)
		}
		rt.handle(w, r)
	})
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "no such path: "+r.URL.Path)
}

func toPage(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/ui/", http.StatusFound)
}
