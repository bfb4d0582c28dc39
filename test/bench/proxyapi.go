package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	proxyNode      = "bench"
	proxyNodes     = 100 // on which endpoints are, as the API tells; one is the proxy's
	proxyEndpoints = 10  // of a Service
	servicePort    = 80
	targetPort     = 8080
)

// fakeAPI is as much of an API server as a proxy asks for: lists and watches of
// Services, EndpointSlices and one Node.
type fakeAPI struct {
	server *http.Server

	mu       sync.Mutex
	version  int
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	log      []apiEvent // of EndpointSlices
	more     chan struct{}
}

type apiEvent struct {
	version int
	text    []byte // a line of a watch
}

func newFakeAPI(listener net.Listener) *fakeAPI {
	a := &fakeAPI{version: 1, more: make(chan struct{})}
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = a.server.Serve(listener) }()
	return a
}

func (a *fakeAPI) close() error { return a.server.Close() }

// vip is the cluster IP of Service i.
func vip(i int) string { return fmt.Sprintf("10.96.%d.%d", i>>8, i&255) }

// endpointIP of Service i; each change gives the endpoint another one of those in
// endpointNet, after the seventh one that it had before.
func endpointIP(i, j, change int) string {
	n := i*proxyEndpoints + j
	if change > 0 {
		n += (1 + (change-1)%7) << 19
	}
	return fmt.Sprintf("10.%d.%d.%d", 128+n>>16&127, n>>8&255, n&255)
}

// nodeOf is the node of endpoint j of Service i.
func nodeOf(i, j int) string {
	if n := (i*proxyEndpoints + j) % proxyNodes; n > 0 {
		return fmt.Sprintf("node-%d", n)
	}
	return proxyNode
}

// fill makes n Services.
func (a *fakeAPI) fill(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	protocol, name, number := corev1.ProtocolTCP, "http", int32(targetPort)
	for i := range n {
		meta := metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i%100), Name: fmt.Sprintf("service-%d", i), UID: "", ResourceVersion: "1", CreationTimestamp: metav1.Now()}
		s := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta}
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: vip(i), ClusterIPs: []string{vip(i)}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			SessionAffinity: corev1.ServiceAffinityNone, Ports: []corev1.ServicePort{{Name: name, Protocol: protocol, Port: servicePort}}}
		a.services = append(a.services, s)
		e := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}
		e.Name += "-slice"
		e.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
		e.Ports = []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &number}}
		yes := true
		for j := range proxyEndpoints {
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{endpointIP(i, j, 0)},
				Conditions: discoveryv1.EndpointConditions{Ready: &yes}, NodeName: new(nodeOf(i, j))})
		}
		a.slices = append(a.slices, e)
	}
}

// changeEndpoints gives one endpoint of each of n Services from the first on
// another address.
func (a *fakeAPI) changeEndpoints(first, n, change int) {
	a.change(first, n, func(i int, e *discoveryv1.EndpointSlice) {
		e.Endpoints[change%proxyEndpoints].Addresses = []string{endpointIP(i, change%proxyEndpoints, change+1)}
	})
}

// moveEndpoint gives an endpoint another node, neither of both the proxy's: no
// rule changes.
func (a *fakeAPI) moveEndpoint(i, change int) {
	a.change(i, 1, func(_ int, e *discoveryv1.EndpointSlice) {
		e.Endpoints[1].NodeName = new(fmt.Sprintf("other-%d", change))
	})
}

func (a *fakeAPI) change(first, n int, f func(i int, e *discoveryv1.EndpointSlice)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := first; i < first+n; i++ {
		e := a.slices[i].DeepCopy()
		a.version++
		e.ResourceVersion = strconv.Itoa(a.version)
		f(i, e)
		a.slices[i] = e
		a.log = append(a.log, apiEvent{a.version, watchLine("MODIFIED", e)})
	}
	close(a.more)
	a.more = make(chan struct{})
}

func watchLine(kind string, object any) []byte {
	text, _ := json.Marshal(map[string]any{"type": kind, "object": object}) // API types always can be written
	return append(text, '\n')
}

// ServeHTTP answers as an API server would.
func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	path, query := r.URL.Path, r.URL.Query()
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: proxyNode, UID: "bench", ResourceVersion: "1"}}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = podNet, []string{podNet}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}
	a.mu.Lock()
	version := a.version
	var items []any
	kind, group := "", "v1"
	switch {
	case strings.HasSuffix(path, "/services"):
		kind = "ServiceList"
		for _, s := range a.services {
			items = append(items, s)
		}
	case strings.HasSuffix(path, "/endpointslices"):
		kind, group = "EndpointSliceList", "discovery.k8s.io/v1"
		for _, s := range a.slices {
			items = append(items, s)
		}
	case strings.HasSuffix(path, "/nodes"):
		kind, items = "NodeList", append(items, node)
	case strings.HasSuffix(path, "/servicecidrs"):
		kind, group = "ServiceCIDRList", "networking.k8s.io/v1"
	}
	a.mu.Unlock()
	switch {
	case strings.HasSuffix(path, "/nodes/"+proxyNode):
		_ = json.NewEncoder(w).Encode(node)
	case strings.HasSuffix(path, "/version"):
		_, _ = w.Write([]byte(`{"major":"1","minor":"37","gitVersion":"v1.37.0"}`))
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{}`)) // an event
	case kind == "":
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
	case query.Get("watch") != "" && query.Get("watch") != "false":
		a.watch(w, r, kind, group, items, version)
	default:
		if items == nil {
			items = []any{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": kind, "apiVersion": group,
			"metadata": map[string]string{"resourceVersion": strconv.Itoa(version)}, "items": items})
	}
}

// watch sends events, and what is there before if that is asked for.
func (a *fakeAPI) watch(w http.ResponseWriter, r *http.Request, kind, group string, items []any, version int) {
	out := http.NewResponseController(w)
	_ = out.Flush()
	query := r.URL.Query()
	after, _ := strconv.Atoi(query.Get("resourceVersion"))
	if query.Get("sendInitialEvents") == "true" {
		for _, item := range items {
			if _, err := w.Write(watchLine("ADDED", item)); err != nil {
				return
			}
		}
		mark := map[string]any{"kind": strings.TrimSuffix(kind, "List"), "apiVersion": group, "metadata": map[string]any{
			"resourceVersion": strconv.Itoa(version), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
		_, _ = w.Write(watchLine("BOOKMARK", mark))
		_ = out.Flush()
		after = version
	}
	for {
		a.mu.Lock()
		var events []apiEvent
		if kind == "EndpointSliceList" {
			for i := len(a.log); i > 0 && a.log[i-1].version > after; i-- {
				events = a.log[i-1:]
			}
		}
		more := a.more
		a.mu.Unlock()
		for _, e := range events {
			if _, err := w.Write(e.text); err != nil {
				return
			}
			after = e.version
		}
		_ = out.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-more:
		}
	}
}
