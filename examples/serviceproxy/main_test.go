package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const web = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.5]}]
`

// serviceproxy gives what is printed on both streams.
func serviceproxy(t *testing.T, files map[string]string, args ...string) (string, string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errOut bytes.Buffer
	args = append([]string{"--manifests", dir, "--node-name", "n1", "--node-address", "192.0.2.1", "--pod-cidr", "10.244.0.0/16"}, args...)
	err := run(context.Background(), args, &out, &errOut)
	return out.String(), errOut.String(), err
}

func TestTrace(t *testing.T) {
	out, _, err := serviceproxy(t, map[string]string{"web.yaml": web}, "--trace", "10.244.0.9", "10.96.0.10/80/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.244.0.9 -> 10.96.0.10:80/TCP: balance (service default/web", "-> 10.244.0.5:8080 100%"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestTraceByLink(t *testing.T) {
	for link, want := range map[string]string{"cali1": "", "eth0": ", sees the node's address"} {
		out, _, err := serviceproxy(t, map[string]string{"web.yaml": web}, "--local-interface", "cali*", "--trace", "10.244.0.9", "10.96.0.10/80/tcp", link)
		if err != nil || !strings.Contains(out, "-> 10.244.0.5:8080 100%"+want+"\n") {
			t.Errorf("by %s: %v\n%s", link, err, out)
		}
	}
}

func TestRender(t *testing.T) {
	out, _, err := serviceproxy(t, map[string]string{"web.yaml": web}, "--render")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"table ip nodekit-proxy {", "10.96.0.10 . tcp . 80 : goto", "tcp . 30080 : goto", "10.244.0.5 . 8080"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestRenderIptables(t *testing.T) {
	out, _, err := serviceproxy(t, map[string]string{"web.yaml": web}, "--render", "--mode", "iptables")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# for ip6tables-restore", "-A NODEKIT-SERVICES -d 10.96.0.10 -p tcp", "--to-destination 10.244.0.5:8080"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestMistakesNameFileObjectAndField(t *testing.T) {
	out, errOut, err := serviceproxy(t, map[string]string{
		"a.yaml": web,
		"b.yaml": strings.ReplaceAll(web, "name: web", "name: api"),                                      // the same address
		"c.yaml": strings.ReplaceAll(strings.ReplaceAll(web, "name: web", "name: db"), "port:", "prot:"), // no such field
	}, "--render")
	if err == nil || !strings.Contains(out, "10.96.0.10 . tcp . 80") {
		t.Errorf("error %v and rules\n%s", err, out)
	}
	for _, want := range []string{"a.yaml: service default/web: spec: 10.96.0.10:80/TCP is taken by service default/api", "c.yaml", "db", "spec.ports[0].prot"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("no %q in\n%s", want, errOut)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"--manifests is required", "--help teaches"}},
		{[]string{"--manifests", "/nowhere", "x", "--trace"}, []string{"--manifests", "nowhere", `"x" is no flag`}},
		{[]string{"--cleanup", "--trace", "10.0.0.1"}, []string{"--trace wants two words"}},
		{[]string{"--cleanup", "--trace", "10.0.0.1", "10.0.0.2:80/tcp"}, []string{"ADDRESS/PORT/PROTOCOL"}},
		{[]string{"--cleanup", "--trace", "10.0.0.1", "10.0.0.2/80/icmp"}, []string{"--trace", "icmp"}},
		{[]string{"--pod-cidr", "10.0.0.0"}, []string{"pod-cidr", "10.0.0.0"}},
	} {
		err := run(context.Background(), c.args, new(bytes.Buffer), new(bytes.Buffer))
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %v lacks %q", c.args, err, want)
			}
		}
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"--help"}, &out, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-pod-cidr") {
		t.Errorf("--help: %v\n%s", err, out.String())
	}
}
