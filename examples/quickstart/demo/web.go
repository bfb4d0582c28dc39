package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// web is the state behind the demo's HTTP server.
type web struct {
	unready atomic.Bool
	ballast atomic.Pointer[[]byte] // what /touch holds on to
}

func serve(ctx context.Context) error {
	var w web
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", w.who)
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	mux.HandleFunc("GET /readyz", w.ready)
	mux.HandleFunc("POST /readyz", w.turn)
	mux.HandleFunc("GET /stream", w.stream)
	mux.HandleFunc("GET /call", w.call)
	mux.HandleFunc("POST /crash", w.crash)
	mux.HandleFunc("POST /burn", w.burn)
	mux.HandleFunc("POST /touch", w.touch)
	mux.HandleFunc("POST /lines", w.lines)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	})
	fmt.Println("web: serving on :8080")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	fmt.Println("web: told to stop")
	return nil
}

// who answers: web-1 10.88.0.2 says "hello" (noted: ...; clock: ...)
func (w *web) who(rw http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(rw, "%s %s says %q (note: %s; clock: %s)\n", os.Getenv("POD_NAME"), os.Getenv("POD_IP"),
		os.Getenv("GREETING"), firstLine("/data/note"), firstLine("/data/clock"))
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

func (w *web) ready(rw http.ResponseWriter, _ *http.Request) {
	if w.unready.Load() {
		fmt.Println("web: found unready")
		http.Error(rw, "told to be unready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(rw, "ready")
}

func (w *web) turn(rw http.ResponseWriter, r *http.Request) {
	ready, err := strconv.ParseBool(r.URL.Query().Get("ready"))
	if err != nil {
		http.Error(rw, "ready: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.unready.Store(!ready)
	fmt.Println("web: ready turned to", ready)
}

func (w *web) stream(rw http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if _, err := fmt.Fprintln(rw, os.Getenv("POD_NAME"), n); err != nil {
			return
		}
		rw.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// call makes no use of kept connections, so that each call is a new choice of
// the Service's rules.
func (w *web) call(rw http.ResponseWriter, r *http.Request) {
	answer, err := get(r.Context(), r.URL.Query().Get("url"))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprint(rw, answer)
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

func (w *web) crash(_ http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.URL.Query().Get("code"))
	if err != nil {
		code = 1
	}
	fmt.Println("web: crashing with", code)
	os.Exit(code)
}

// burn spends the asked CPU time, read from the process's own clock.
func (w *web) burn(rw http.ResponseWriter, r *http.Request) {
	want, err := time.ParseDuration(r.URL.Query().Get("cpu"))
	if err != nil || want > 10*time.Second {
		http.Error(rw, "cpu: a duration up to 10s", http.StatusBadRequest)
		return
	}
	start := cpuTime()
	for cpuTime()-start < want {
	}
	fmt.Fprintln(rw, cpuTime()-start)
}

func (w *web) touch(rw http.ResponseWriter, r *http.Request) {
	mib, err := strconv.Atoi(r.URL.Query().Get("mib"))
	if err != nil || mib < 0 || mib > 1024 {
		http.Error(rw, "mib: a number up to 1024", http.StatusBadRequest)
		return
	}
	block := make([]byte, mib<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	w.ballast.Store(&block)
	fmt.Fprintln(rw, len(block))
}

func (w *web) lines(rw http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 0 || n > 1_000_000 {
		http.Error(rw, "n: a number up to 1000000", http.StatusBadRequest)
		return
	}
	out := bufio.NewWriter(os.Stdout)
	for i := range n {
		fmt.Fprintln(out, "line", i)
	}
	if err := out.Flush(); err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
	}
}

func clock(ctx context.Context, path string) error {
	fmt.Println("clock: keeping the time in", path)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := os.WriteFile(path, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func call(ctx context.Context, url string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if answer, err := get(ctx, url); err != nil {
			fmt.Println("call:", err)
		} else {
			fmt.Print("answered by ", answer)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
