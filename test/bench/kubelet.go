package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kubeletTunables are what the kubelet writes to the kernel of its machine.
// Source: Kubernetes v1.37.0 pkg/kubelet/cm/container_manager_linux.go.
var kubeletTunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// nodeIP is an address of the benchmark's network namespace.
const nodeIP = "192.0.2.10"

// kubelet makes an agent of the kubelet without an API server.
func (s *podStage) kubelet(program string) (*agent, error) {
	a := s.newAgent("kubelet 1.37, containerd 2.4")
	dir := a.dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := addNodeIP(); err != nil {
		return nil, err
	}
	if err := coverMachine(dir, s.daemon.Socket); err != nil {
		return nil, err
	}
	resolv := filepath.Join(dir, "resolv.conf")
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"staticPodPath": a.manifests, "podLogsDir": a.logs, "volumePluginDir": filepath.Join(dir, "plugins"),
		"containerRuntimeEndpoint": "unix://" + s.daemon.Socket, "resolvConf": resolv,
		"cgroupDriver": "cgroupfs", "cgroupRoot": a.cgroup, "failCgroupV1": false,
		"failSwapOn": false, "protectKernelDefaults": true,
		"address": "127.0.0.1", "authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization": map[string]any{"mode": "AlwaysAllow"},
		"maxPods":       s.o.pods + 20,
		// As many signals are watched as by default; a disk that is nearly full
		// is another's matter.
		"evictionHard": map[string]any{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.json")
	for name, data := range map[string][]byte{path: text, resolv: []byte("nameserver 192.0.2.53\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return nil, err
		}
	}
	a.command = []string{program, "--config", path, "--root-dir", filepath.Join(dir, "root"), "--cert-dir", filepath.Join(dir, "pki"),
		"--hostname-override", nodeName, "--node-ip", nodeIP}
	a.shims, a.daemon = s.containerdShims, s.daemon.PID
	return a, makeCgroup(a.cgroup)
}

// coverMachine puts files and directories of the benchmark's own where the
// kubelet writes at fixed places, for this mount namespace alone.
func coverMachine(dir, socket string) error {
	if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /var/log: %w", err)
	}
	for name, value := range kubeletTunables {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover /proc/sys/%s: %w", name, err)
		}
	}
	// Where its part that meters, cAdvisor, looks for containerd.
	if err := os.MkdirAll("/run/containerd", 0o755); err != nil {
		return err
	}
	return os.Symlink(socket, "/run/containerd/containerd.sock")
}

// addNodeIP gives the network namespace what the kubelet will not go without.
func addNodeIP() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "uplink"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add eth0: %w", err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeIP), Mask: net.CIDRMask(24, 32)}}); err != nil {
		return fmt.Errorf("address of eth0: %w", err)
	}
	return netlink.LinkSetUp(link)
}
