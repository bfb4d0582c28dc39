package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

// cgroups makes cgroups below one of the test's own.
func cgroups(t *testing.T) (below string, mkdir func(name string)) {
	t.Helper()
	kerneltest.Require(t, kerneltest.Root, kerneltest.Cgroup)
	roots, _, err := metrics.Hierarchies("", "")
	if err != nil {
		t.Fatal(err)
	}
	below = fmt.Sprintf("/nodekit-monitor-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	mkdir = func(name string) {
		for _, root := range roots {
			dir := filepath.Join(root, below, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Rmdir(dir); err != nil {
					t.Error(err)
				}
			})
		}
	}
	mkdir("")
	return below, mkdir
}

// monitor runs nodemonitor until the test ends, and gives its address.
func monitor(t *testing.T, o options) string {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o, writer); _ = writer.Close() }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	said := make([]byte, 4096)
	n, _ := reader.Read(said)
	found := regexp.MustCompile(`http://[^/]+`).Find(said[:n])
	if found == nil {
		t.Fatalf("it said %q", said[:n])
	}
	return string(found)
}

func get(t *testing.T, url, accept string) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s, %v", url, response.Status, body, err)
	}
	return string(body)
}

// eventually waits for a machine that is busy with others.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestEveryCgroup(t *testing.T) {
	below, mkdir := cgroups(t)
	mkdir("one")
	// No round but the first is due: what comes later comes by an event.
	url := monitor(t, options{listen: "127.0.0.1:0", below: below, labels: "compat", name: "node-a", interval: time.Hour, cold: time.Hour})
	series := func(name string) string {
		return fmt.Sprintf("container_memory_usage_bytes{container=\"\",id=%q,", below+"/"+name)
	}
	eventually(t, "the first cgroup", func() bool { return strings.Contains(get(t, url+"/metrics", ""), series("one")) })
	mkdir("two")
	eventually(t, "a new cgroup", func() bool { return strings.Contains(get(t, url+"/metrics", ""), series("two")) })

	for path, want := range map[string]string{
		"/metrics/cadvisor":    "machine_cpu_cores{",
		"/metrics/resource":    "node_cpu_usage_seconds_total ",
		"/stats/summary":       fmt.Sprintf(`"name":%q`, below+"/two"),
		"/spec":                `"num_cores":`,
		"/burden?format=text":  "allocatable",
		"/ui/":                 "<!doctype html>",
		"/healthz":             "ok",
		"/metrics/cadvisor?x=": "container_scrape_error 0",
	} {
		if got := get(t, url+path, ""); !strings.Contains(got, want) {
			t.Errorf("%s has no %s:\n%.500s", path, want, got)
		}
	}
	if got := get(t, url+"/metrics", "application/openmetrics-text"); !strings.HasSuffix(got, "# EOF\n") || strings.Count(got, "# EOF") != 1 {
		t.Error("OpenMetrics does not end in one # EOF")
	}
}

func TestFlags(t *testing.T) {
	good := options{listen: "127.0.0.1:0", below: "/", labels: "lean"}
	for _, listen := range []string{"localhost:9101", "[::1]:0", "127.0.0.2:1"} {
		good.listen = listen
		if err := good.validate(); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
	for _, listen := range []string{"0.0.0.0:9101", ":9101", "192.0.2.1:9101", "example.com:9101", "127.0.0.1"} {
		err := options{listen: listen, below: "/a", cri: "unix:///x", labels: "x", disks: -1}.validate()
		for _, flag := range []string{"--listen", "--below", "--labels", "--disk-interval"} {
			if err == nil || !strings.Contains(err.Error(), flag) {
				t.Errorf("%s: no word of %s: %v", listen, flag, err)
			}
		}
	}
}
