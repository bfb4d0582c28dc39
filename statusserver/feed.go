package statusserver

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	// feedPeriod is how often the page hears.
	feedPeriod = time.Second
	// feedFresh is how long one look at the providers serves all streams.
	feedFresh = 800 * time.Millisecond
	// feedTimeout bounds one look.
	feedTimeout = 10 * time.Second
)

// feed looks at pods and usage for all open pages together, so that ten pages
// cost what one does.
type feed struct {
	pods   PodsProvider
	stats  StatsProvider
	burden BurdenProvider

	// turn holds the right to look and to read and write what follows.
	turn  chan struct{}
	taken time.Time
	last  []event
}

// event is one message to the page. The data is JSON.
type event struct {
	name string
	data string
}

func newFeed(pods PodsProvider, stats StatsProvider, burden BurdenProvider) *feed {
	f := &feed{pods: pods, stats: stats, burden: burden, turn: make(chan struct{}, 1)}
	f.turn <- struct{}{}
	return f
}

// usage is a sample of the curves: CPU in cores, memory (working set) in bytes.
type usage struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace,omitempty"`
	UID       string   `json:"uid,omitempty"`
	CPU       *float64 `json:"cpu,omitempty"`
	Memory    *uint64  `json:"memory,omitempty"`
}

type sample struct {
	Time time.Time `json:"time"`
	Node usage     `json:"node"`
	Pods []usage   `json:"pods"`
}

// look gives the state of now; the caller must not change it.
func (f *feed) look(ctx context.Context) ([]event, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.turn:
	}
	defer func() { f.turn <- struct{}{} }()
	if f.last != nil && time.Since(f.taken) < feedFresh {
		return f.last, nil
	}
	lookCtx, cancel := context.WithTimeout(ctx, feedTimeout)
	defer cancel()
	events := f.gather(lookCtx)
	if err := ctx.Err(); err != nil {
		return nil, err // what was gathered for this page is no good for others
	}
	f.last, f.taken = events, time.Now()
	return events, nil
}

func (f *feed) gather(ctx context.Context) []event {
	var events []event
	problems := map[string]string{}
	if f.pods != nil {
		list, err := f.pods.Pods(ctx)
		if err != nil {
			problems["pods"] = err.Error()
		} else {
			events = append(events, newEvent("pods", podRows(list)))
		}
	}
	if f.stats != nil {
		summary, err := f.stats.Summary(ctx, true)
		if err != nil {
			problems["stats"] = err.Error()
		} else if summary != nil {
			events = append(events, newEvent("stats", sampleOf(summary, time.Now())))
		}
	}
	if f.burden != nil {
		answer, err := f.burden.Burden(ctx)
		if err != nil {
			problems["burden"] = err.Error()
		} else {
			events = append(events, newEvent("burden", answer))
		}
	}
	return append(events, newEvent("problems", problems))
}

func newEvent(name string, value any) event {
	data, err := json.Marshal(value)
	if err != nil { // floats that are no numbers: nothing else here can fail
		data, name = []byte(strconv.Quote(err.Error())), "broken"
	}
	return event{name: name, data: string(data)}
}

func sampleOf(summary *stats.Summary, now time.Time) sample {
	s := sample{
		Time: now,
		Node: usageOf(summary.Node.CPU, summary.Node.Memory),
		Pods: []usage{},
	}
	s.Node.Name = summary.Node.NodeName
	for _, pod := range summary.Pods {
		u := usageOf(pod.CPU, pod.Memory)
		u.Name, u.Namespace, u.UID = pod.PodRef.Name, pod.PodRef.Namespace, pod.PodRef.UID
		s.Pods = append(s.Pods, u)
	}
	return s
}

func usageOf(cpu *stats.CPUStats, memory *stats.MemoryStats) usage {
	var u usage
	if cpu != nil && cpu.UsageNanoCores != nil {
		cores := float64(*cpu.UsageNanoCores) / 1e9
		u.CPU = &cores
	}
	if memory != nil {
		u.Memory = memory.WorkingSetBytes
		if u.Memory == nil {
			u.Memory = memory.UsageBytes
		}
	}
	return u
}

// about tells the page what it can ask for.
type about struct {
	Node   string    `json:"node"`
	Pods   bool      `json:"pods"`
	Stats  bool      `json:"stats"`
	Logs   bool      `json:"logs"`
	Why    bool      `json:"why"`
	Trace  bool      `json:"trace"`
	Burden bool      `json:"burden"`
	Now    time.Time `json:"now"`
}

// events streams to the page, as server-sent events: "about" once, then each
// second "stats", and "pods", "burden" and "problems" when they changed.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	out := newStreamWriter(w, true)
	send := func(e event) bool {
		_, err := out.Write([]byte("event: " + e.name + "\ndata: " + e.data + "\n\n"))
		return err == nil
	}
	c := &s.config
	if !send(newEvent("about", about{
		Node: c.NodeName, Pods: c.Pods != nil, Stats: c.Stats != nil, Logs: c.Logs != nil,
		Why: c.Why != nil, Trace: c.Trace != nil, Burden: c.Burden != nil, Now: time.Now(),
	})) {
		return
	}
	ticker := time.NewTicker(feedPeriod)
	defer ticker.Stop()
	sent := map[string]string{}
	for {
		events, err := s.feed.look(r.Context())
		if err != nil {
			return
		}
		quiet := true
		for _, e := range events {
			if e.name != "stats" && sent[e.name] == e.data {
				continue
			}
			sent[e.name] = e.data
			quiet = false
			if !send(e) {
				return
			}
		}
		if quiet && !send(event{name: "tick", data: "0"}) {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}
