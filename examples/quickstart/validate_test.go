package main

// Inside the package, because a program cannot be imported.

import (
	"net"
	"strings"
	"testing"
	"time"
)

// What is wrong is told by the flag that was typed, all of it at once.
func TestValidate(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	good := options{manifests: "manifests", podCIDR: "10.88.0.0/24", bridge: "nodekit0", table: "nodekit", cgroup: "/nodekit",
		interval: time.Second, timeout: time.Second, disks: time.Second, listen: address}
	bad := options{manifests: "validate.go", podCIDR: "10.88.0.7/24", bridge: "a-name-that-is-too-long", table: "0 nodes", cgroup: "nodekit",
		name: "Not_A_Name", eviction: "memory.available", listen: "0.0.0.0:10255", registry: address, demo: "/nowhere/demo"}
	for name, c := range map[string]struct {
		options
		want, none []string
	}{
		"all": {bad, []string{"--manifests: validate.go is no directory", "--pod-cidr: 10.88.0.7/24 is not", `--bridge: "a-name`, `--table: "0 nodes"`,
			`--cgroup: "nodekit"`, `--node-name: "Not_A_Name"`, "--interval: 0s", "--timeout: 0s", "--disk-interval: 0s", `--eviction: "memory.available" is no threshold`,
			"--listen: 0.0.0.0:10255 is not on loopback", "--registry: listen tcp " + address + ": bind: address already in use; another program has that port, give --registry another",
			"--demo: stat /nowhere/demo"}, nil},
		"a port": {good, []string{"--listen: listen tcp " + address + ": bind: address already in use; another program has that port, give --listen another"},
			[]string{"--manifests", "--pod-cidr", "--bridge", "--table", "--cgroup", "--node-name", "--interval", "--timeout", "--disk-interval", "--eviction", "--registry", "--demo"}},
	} {
		err := c.validate()
		if err == nil {
			t.Fatalf("%s: nothing is wrong", name)
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in:\n%v", name, want, err)
			}
		}
		for _, none := range c.none {
			if strings.Contains(err.Error(), none) {
				t.Errorf("%s: %q is in:\n%v", name, none, err)
			}
		}
	}
}
