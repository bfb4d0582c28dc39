package statusserver

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// contentSecurityPolicy lets the page use its own files and nothing else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// guard stands before everything: it refuses what no endpoint should ever see.
func (s *Server) guard(l Listener, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		defer s.requests.Done()
		header := w.Header()
		header.Set("Content-Security-Policy", contentSecurityPolicy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")

		control := http.NewResponseController(w)
		now := time.Now()
		_ = control.SetWriteDeadline(now.Add(writeTimeout))
		if status, err := s.refuse(l, r); err != nil {
			if status == http.StatusMethodNotAllowed {
				header.Set("Allow", "GET, HEAD")
			}
			// What a refused request still sends is not waited for.
			header.Set("Connection", "close")
			s.config.Logger.V(4).Info("request refused", "path", r.URL.Path, "remote", r.RemoteAddr, "reason", err.Error())
			fail(w, status, err.Error())
			return
		}
		if r.ContentLength != 0 {
			_ = control.SetReadDeadline(now.Add(bodyTimeout))
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		next.ServeHTTP(w, r)
	})
}

// refuse gives a status and a reason, or none.
func (s *Server) refuse(l Listener, r *http.Request) (int, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed", r.Method)
	}
	if r.ContentLength > maxBody {
		return http.StatusRequestEntityTooLarge, fmt.Errorf("body of %d bytes is larger than %d", r.ContentLength, maxBody)
	}
	if !cleanPath(r.URL) {
		return http.StatusBadRequest, fmt.Errorf("path is not clean")
	}
	if l.network() != "unix" && !knownHost(r.Host, l.Hosts) {
		return http.StatusForbidden, fmt.Errorf("host %q is not a name of this listener", r.Host)
	}
	if err := sameOrigin(r); err != nil {
		return http.StatusForbidden, err
	}
	return 0, nil
}

// cleanPath refuses paths that a reader could take in two ways, before
// ServeMux would answer them with a redirect.
func cleanPath(u *url.URL) bool {
	p := u.Path
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\\\x00") {
		return false
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean == p
}

// knownHost allows addresses, which no one can turn to another machine, and
// the names of the listener.
func knownHost(host string, names []string) bool {
	name := hostname(host)
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return name == "localhost" || slices.Contains(names, name)
}

// sameOrigin refuses what pages of other origins ask for. Programs send
// neither of the headers. Following a link to here is allowed.
func sameOrigin(r *http.Request) error {
	if origin := r.Header.Get("Origin"); origin != "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		if !strings.EqualFold(origin, scheme+"://"+r.Host) {
			return fmt.Errorf("origin %q is not this server", origin)
		}
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none":
		return nil
	default:
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" {
			return nil
		}
		return fmt.Errorf("a request of a %s page", site)
	}
}

// fail answers with one line of text.
func fail(w http.ResponseWriter, status int, text string) {
	http.Error(w, text, status)
}

// streamCaps counts streams, per client and in all.
type streamCaps struct {
	max       int
	perClient int

	mu     sync.Mutex
	all    int
	client map[string]int
}

func newStreamCaps(limit, perClient int) *streamCaps {
	return &streamCaps{max: limit, perClient: perClient, client: map[string]int{}}
}

// take counts a stream; the caller calls release once when ok.
func (c *streamCaps) take(client string) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.max || c.client[client] >= c.perClient {
		return nil, false
	}
	c.all++
	c.client[client]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		c.client[client]--
		if c.client[client] == 0 {
			delete(c.client, client)
		}
	}, true
}

// client names who is counted as one: a user, an IPv4 address, or an IPv6
// network of 64 bits, since hosts have as many addresses in one as they like.
func (p peer) client() string {
	if p.unix {
		return fmt.Sprintf("uid %d", p.uid)
	}
	addr := p.addr.Addr().Unmap().WithZone("")
	if addr.Is6() && !addr.IsLoopback() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
