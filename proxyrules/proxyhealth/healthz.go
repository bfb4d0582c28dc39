package proxyhealth

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
)

// toBeDeleted is the taint by which the cluster autoscaler announces an end.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

// health is what /healthz and /livez tell.
type health struct {
	LastUpdated  time.Time                        `json:"lastUpdated"`
	CurrentTime  time.Time                        `json:"currentTime"`
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"`
	Status       map[corev1.IPFamily]familyHealth `json:"status,omitempty"`
}

type familyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// healthy says that no update is overdue.
func (s *Server) healthy(status *proxyrules.Status) bool {
	return !status.Pending || status.Waiting < s.config.Overdue
}

// eligible says that the node may get traffic from outside.
func (s *Server) eligible() bool {
	if s.config.Node == nil {
		return true
	}
	node := s.config.Node()
	if node == nil || node.DeletionTimestamp != nil {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == toBeDeleted {
			return false
		}
	}
	return true
}

// tell answers /healthz, or else /livez: that does not ask for the node, since
// who restarts a proxy for it mends nothing.
func (s *Server) tell(w http.ResponseWriter, healthz bool) {
	status := s.config.Proxy.Status()
	answer := health{CurrentTime: s.config.Clock.Now(), LastUpdated: status.Synced, Healthy: s.healthy(&status)}
	for _, family := range families(s.config.Proxy.Table()) {
		if answer.Status == nil {
			answer.Status = map[corev1.IPFamily]familyHealth{}
		}
		answer.Status[family] = familyHealth{status.Synced, answer.Healthy}
	}
	good := answer.Healthy
	if healthz {
		eligible := s.eligible()
		answer.NodeEligible = &eligible
		good = good && eligible
	}
	code := http.StatusServiceUnavailable
	if good {
		// As kube-proxy, whose clients take it for the time of the last look.
		code, answer.LastUpdated = http.StatusOK, answer.CurrentTime
	}
	s.mu.Lock()
	s.figures.asked(healthz, code)
	s.mu.Unlock()
	respond(w, code, answer)
}

func respond(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // who hangs up hears nothing
}

// families are those that have a front.
func families(table *proxyrules.Table) []corev1.IPFamily {
	var out []corev1.IPFamily
	if table.Len() == 0 {
		return out
	}
	// They are sorted, IPv4 first.
	if table.At(0).Addr.Is4() {
		out = append(out, corev1.IPv4Protocol)
	}
	if table.At(table.Len() - 1).Addr.Is6() {
		out = append(out, corev1.IPv6Protocol)
	}
	return out
}
