package statusserver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	list, err := s.config.Pods.Pods(r.Context())
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("list pods: %w", err))
		return
	}
	s.respondJSON(w, r, podList(list, func(*corev1.Pod) bool { return true }))
}

// runningPods gives the pods with a running container.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	list, err := s.config.Pods.Pods(r.Context())
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("list pods: %w", err))
		return
	}
	s.respondJSON(w, r, podList(list, func(pod *corev1.Pod) bool {
		for _, statuses := range [][]corev1.ContainerStatus{
			pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
		} {
			for i := range statuses {
				if statuses[i].State.Running != nil {
					return true
				}
			}
		}
		return false
	}))
}

// podList gives a list as the API server writes it: with kind and version of
// the list, without those of the items, and never null.
func podList(list *corev1.PodList, keep func(*corev1.Pod) bool) *corev1.PodList {
	out := &corev1.PodList{
		TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"},
		Items:    []corev1.Pod{},
	}
	if list == nil {
		return out
	}
	out.ListMeta = list.ListMeta
	for i := range list.Items {
		if keep(&list.Items[i]) {
			pod := list.Items[i]
			pod.TypeMeta = metav1.TypeMeta{}
			out.Items = append(out.Items, pod)
		}
	}
	return out
}

func (s *Server) spec(w http.ResponseWriter, r *http.Request) {
	info, err := s.config.Spec.MachineInfo(r.Context())
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("describe machine: %w", err))
		return
	}
	s.respondJSON(w, r, info)
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	only := false
	if text := r.URL.Query().Get("only_cpu_and_memory"); text != "" {
		var err error
		if only, err = strconv.ParseBool(text); err != nil {
			fail(w, http.StatusBadRequest, fmt.Sprintf("only_cpu_and_memory: %q is neither true nor false", text))
			return
		}
	}
	summary, err := s.config.Stats.Summary(r.Context(), only)
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("sum up usage: %w", err))
		return
	}
	s.respondJSON(w, r, summary)
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if s.config.MetricsHandler != nil {
		s.config.MetricsHandler.ServeHTTP(w, r)
		return
	}
	s.exposition(s.config.Metrics, s.config.OpenMetrics["/metrics"])(w, r)
}

func (s *Server) burden(w http.ResponseWriter, r *http.Request) {
	if err := validQuery(r, "format"); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer, err := s.config.Burden.Burden(r.Context())
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("look who burdens the node: %w", err))
		return
	}
	s.respondEither(w, r, answer)
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.PathValue("namespace"), r.PathValue("pod")
	if err := errors.Join(validNames(namespace, pod), validQuery(r, "format")); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer, err := s.config.Why.Why(r.Context(), namespace, pod)
	if err != nil {
		s.providerFailed(w, r, err)
		return
	}
	s.respondEither(w, r, answer)
}

func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	if err := validQuery(r, "from", "to", "proto", "format"); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	query := r.URL.Query()
	var from netip.Addr
	if text := query.Get("from"); text != "" {
		var err error
		if from, err = netip.ParseAddr(text); err != nil || from.Zone() != "" {
			fail(w, http.StatusBadRequest, fmt.Sprintf("from: %q is not an IP address", text))
			return
		}
	}
	to, err := netip.ParseAddrPort(query.Get("to"))
	if err != nil || to.Addr().Zone() != "" || to.Port() == 0 {
		fail(w, http.StatusBadRequest, fmt.Sprintf("to: %q is not an IP address and port, such as 10.96.0.10:80 or [fd00::10]:80", query.Get("to")))
		return
	}
	protocol := strings.ToLower(query.Get("proto"))
	switch protocol {
	case "":
		protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		fail(w, http.StatusBadRequest, fmt.Sprintf("proto: %q is not tcp, udp or sctp", query.Get("proto")))
		return
	}
	answer, err := s.config.Trace.Trace(r.Context(), from.Unmap(), netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), protocol)
	if err != nil {
		s.providerFailed(w, r, err)
		return
	}
	s.respondEither(w, r, answer)
}

// validQuery refuses words that the endpoint does not know: a misspelt one would
// be answered as if it were not there.
func validQuery(r *http.Request, known ...string) error {
	query := r.URL.Query()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("query: %q is not one of %s", name, strings.Join(known, ", ")))
		}
	}
	if format := query.Get("format"); format != "" && format != "text" && format != "json" {
		errs = append(errs, fmt.Errorf("format: %q is not text or json", format))
	}
	return errors.Join(errs...)
}

// validNames refuses what can be the name of no namespace and pod; so nothing
// like ../ reaches a provider that makes paths of names.
func validNames(namespace, pod string) error {
	if len(validation.IsDNS1123Label(namespace)) > 0 {
		return fmt.Errorf("namespace: %q is not the name of a namespace", namespace)
	}
	if len(validation.IsDNS1123Subdomain(pod)) > 0 {
		return fmt.Errorf("pod: %q is not the name of a pod", pod)
	}
	return nil
}
