package statusserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// checkTimeout bounds each health check.
const checkTimeout = 5 * time.Second

// A Check is one named part of the agent's health.
type Check struct {
	// Name is required: lower-case letters, digits, - and . It is unique.
	Name string
	// Check is required. nil is healthy. It is called for each request, by
	// several at once, and given five seconds.
	Check func(ctx context.Context) error
	// ReadyOnly leaves the check out of /livez: its failure is no reason to
	// restart the agent. false: it counts there too.
	ReadyOnly bool
}

// checksOf gives the checks of healthz, livez or readyz.
func (s *Server) checksOf(endpoint string) []Check {
	checks := []Check{{Name: "ping", Check: func(context.Context) error { return nil }}}
	for _, check := range s.config.Checks {
		if endpoint == "livez" && check.ReadyOnly {
			continue
		}
		checks = append(checks, check)
	}
	return checks
}

// health answers in the format of Kubernetes v1.37.0
// staging/src/k8s.io/apiserver/pkg/server/healthz: "ok", or with ?verbose or
// after a failure one line for each check.
func (s *Server) health(endpoint string) http.HandlerFunc {
	checks := s.checksOf(endpoint)
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		excluded := query["exclude"]
		var lines strings.Builder
		var failed []string
		for _, check := range checks {
			if i := slices.Index(excluded, check.Name); i >= 0 {
				excluded = slices.DeleteFunc(slices.Clone(excluded), func(name string) bool { return name == check.Name })
				fmt.Fprintf(&lines, "[+]%s excluded: ok\n", check.Name)
				continue
			}
			if err := runCheck(r.Context(), check); err != nil {
				failed = append(failed, check.Name)
				s.config.Logger.V(4).Info("health check failed", "check", check.Name, "reason", err.Error())
				fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", check.Name)
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", check.Name)
		}
		if len(excluded) > 0 {
			fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %q\n", excluded)
		}
		w.Header().Set("Content-Type", textType)
		if len(failed) > 0 {
			fail(w, http.StatusInternalServerError, lines.String()+endpoint+" check failed")
			return
		}
		if _, verbose := query["verbose"]; verbose {
			_, _ = fmt.Fprintf(w, "%s%s check passed\n", lines.String(), endpoint)
			return
		}
		_, _ = fmt.Fprint(w, "ok")
	}
}

// oneCheck answers for one check, with its reason.
func (s *Server) oneCheck(endpoint string) http.HandlerFunc {
	checks := s.checksOf(endpoint)
	return func(w http.ResponseWriter, r *http.Request) {
		i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == r.PathValue("check") })
		if i < 0 {
			fail(w, http.StatusNotFound, fmt.Sprintf("%s has no check %q", endpoint, r.PathValue("check")))
			return
		}
		if err := runCheck(r.Context(), checks[i]); err != nil {
			fail(w, http.StatusInternalServerError, "internal server error: "+err.Error())
			return
		}
		w.Header().Set("Content-Type", textType)
		_, _ = fmt.Fprint(w, "ok")
	}
}

func runCheck(ctx context.Context, check Check) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := check.Check(ctx); err != nil {
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("took longer than %s", checkTimeout)
	}
	return nil
}
