package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit/nodekit/internal/agenttest"
	"github.com/nodekit/nodekit/internal/kerneltest"
)

// onNode gives a node with an HTTP server at port 8080 of its own address, and
// the program's flags.
func onNode(t *testing.T) (*agenttest.Node, []string) {
	t.Helper()
	node, err := agenttest.NewNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	var listener net.Listener
	err = node.NetNS.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(agenttest.NodeIP.String(), "8080"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return node, []string{"--manifests", node.Manifests, "--node-name", "n1", "--pod-cidr", "10.244.0.0/16", "--listen", "127.0.0.1:10256"}
}

// eventually asks until f has nothing to object to.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func contains(text string, parts ...string) error {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return fmt.Errorf("no %q in\n%s", part, text)
		}
	}
	return nil
}

func TestServe(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Nft)
	program := filepath.Join(t.TempDir(), "serviceproxy")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	node, args := onNode(t)
	answers := func(url string) func() error {
		return func() error {
			_, err := node.Do(http.MethodGet, url)
			return err
		}
	}
	manifest := strings.ReplaceAll(web, "10.244.0.5", agenttest.NodeIP.String())
	if err := node.Write("web.yaml", manifest); err != nil {
		t.Fatal(err)
	}
	process, err := node.Start(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	for _, url := range []string{"http://10.96.0.10", "http://" + agenttest.NodeIP.String() + ":30080", "http://127.0.0.1:10256/healthz"} {
		eventually(t, answers(url))
	}

	second, err := node.Start(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(30 * time.Second); err == nil || !strings.Contains(second.Output.String(), "another serviceproxy keeps table nodekit-proxy") {
		t.Errorf("a second one: %v\n%s", err, second.Output)
	}

	// An edit is done, a mistake is told and changes nothing.
	if err := node.Write("web.yaml", strings.ReplaceAll(manifest, "10.96.0.10", "10.96.0.11")); err != nil {
		t.Fatal(err)
	}
	eventually(t, answers("http://10.96.0.11"))
	if err := node.Write("web.yaml", strings.ReplaceAll(manifest, "port: 80,", "port: 800000,")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return contains(process.Output.String(), "web.yaml", "Service default/web", "spec.ports[0].port")
	})
	if err := answers("http://10.96.0.11")(); err != nil {
		t.Error(err)
	}

	// A load balancer hears whether an endpoint is on this node.
	balancer := strings.NewReplacer("name: web-1", "name: lb-1", "web", "lb", "type: NodePort", "type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 32000",
		"10.96.0.10", "10.96.0.20", "30080", "30081").Replace(manifest)
	health := "http://" + agenttest.NodeIP.String() + ":32000"
	for _, there := range []bool{true, false} {
		text, want := balancer, "503"
		if there {
			text, want = strings.ReplaceAll(balancer, "endpoints: [{", "endpoints: [{nodeName: n1, "), `"localEndpoints":1`
		}
		if err := node.Write("lb.yaml", text); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			text, err := node.Do(http.MethodGet, health)
			return contains(fmt.Sprint(text, err), want)
		})
	}

	// What another program removes comes back, and is told with its name.
	if err := node.NetNS.Do(exec.Command("nft", "flush", "ruleset").Run); err != nil {
		t.Fatal(err)
	}
	eventually(t, answers("http://10.96.0.11"))
	eventually(t, func() error { return contains(process.Output.String(), `changed by "nft"`) })
	eventually(t, func() error {
		text, err := node.Do(http.MethodGet, "http://127.0.0.1:10256/metrics")
		if err != nil {
			return err
		}
		return contains(text, "nodekit_proxyrules_drifts_total 1\n", "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}")
	})

	// The rules outlive the program, and go when told to.
	if err := errors.Join(process.Interrupt(), process.Wait(30*time.Second)); err != nil {
		t.Fatalf("%v\n%s", err, process.Output)
	}
	if err := answers("http://10.96.0.11")(); err != nil {
		t.Error("after the end:", err)
	}
	cleanup, err := node.Start(program, "--cleanup")
	if err != nil {
		t.Fatal(err)
	}
	if err := cleanup.Wait(30 * time.Second); err != nil {
		t.Fatalf("%v\n%s", err, cleanup.Output)
	}
	var rules []byte
	if err := node.NetNS.Do(func() (err error) {
		rules, err = exec.Command("nft", "list", "ruleset").Output()
		return err
	}); err != nil || len(rules) > 0 {
		t.Errorf("left after --cleanup: %v\n%s", err, rules)
	}
}
