package oci_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// bare does by hand what a pod with one container cannot do without: new
// namespaces, a veth pair on the bridge, an overlay, the OCI runtime's create
// and start. It records nothing, keeps nothing and promises nothing. It is what
// the package is measured by.
type bare struct {
	tb     testing.TB
	dir    string
	runc   string
	lowers string
	cgroup string
	spec   specs.Spec
	count  int
}

// newBare takes bundle and layers of a container of e, which must live as long.
func newBare(e *env, sandbox, container string) *bare {
	e.tb.Helper()
	runc, err := exec.LookPath("runc")
	if err != nil {
		e.tb.Fatal(err)
	}
	b := &bare{tb: e.tb, dir: e.tb.TempDir(), runc: runc, cgroup: e.cfg.CgroupRoot + "/bare"}
	data, err := os.ReadFile(filepath.Join(e.cfg.Root, "sandboxes", sandbox, "containers", container, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &b.spec)
	}
	if err != nil {
		e.tb.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		e.tb.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if _, rest, ok := strings.Cut(line, "lowerdir="); ok && strings.Contains(line, b.spec.Root.Path) {
			b.lowers, _, _ = strings.Cut(rest, ",")
		}
	}
	if b.lowers == "" {
		e.tb.Fatalf("no overlay at %s", b.spec.Root.Path)
	}
	return b
}

// cycle starts and removes one container and gives the time of the start.
func (b *bare) cycle() time.Duration {
	b.count++
	id := fmt.Sprintf("bare-%d", b.count)
	dir := filepath.Join(b.dir, id)
	leave := make(chan struct{})
	left := make(chan struct{})
	begin := time.Now()
	for _, sub := range []string{"rootfs", "upper", "work"} {
		b.must(os.MkdirAll(filepath.Join(dir, sub), 0o700))
	}
	rootfs := filepath.Join(dir, "rootfs")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", b.lowers, dir, dir)
	b.must(unix.Mount("overlay", rootfs, "overlay", 0, options))
	namespaces := b.namespaces(leave, left)
	b.network(namespaces)
	b.bundle(dir, rootfs, id, namespaces)
	b.oci("create", "--bundle", dir, "--pid-file", filepath.Join(dir, "pid"), id)
	b.oci("start", id)
	took := time.Since(begin)

	b.oci("delete", "--force", id)
	close(leave)
	<-left
	b.must(unix.Unmount(rootfs, unix.MNT_DETACH))
	b.must(os.RemoveAll(dir))
	return took
}

func (b *bare) must(err error) {
	b.tb.Helper()
	if err != nil {
		b.tb.Fatal(err)
	}
}

func (b *bare) oci(args ...string) {
	b.tb.Helper()
	cmd := exec.Command(b.runc, append([]string{"--root", filepath.Join(b.dir, "state")}, args...)...)
	stderr, err := os.Create(filepath.Join(b.dir, "stderr"))
	b.must(err)
	defer func() { _ = stderr.Close() }()
	cmd.Stderr = stderr
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(stderr.Name())
		b.tb.Fatalf("%s: %v: %s", args[0], err, text)
	}
}

// namespaces gives the directory of those of a thread that waits for leave.
func (b *bare) namespaces(leave <-chan struct{}, left chan<- struct{}) string {
	type result struct {
		dir string
		err error
	}
	made := make(chan result)
	go func() {
		defer close(left)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
		made <- result{fmt.Sprintf("/proc/%d/task/%d/ns/", os.Getpid(), unix.Gettid()), err}
		<-leave
	}()
	res := <-made
	b.must(res.err)
	return res.dir
}

func (b *bare) network(namespaces string) {
	bridge, err := netlink.LinkByName(oci.DefaultBridge)
	b.must(err)
	file, err := os.Open(namespaces + "net")
	b.must(err)
	defer func() { _ = file.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags, attrs.MasterIndex = fmt.Sprintf("bare%d", b.count), net.FlagUp, bridge.Attrs().Index
	b.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(file.Fd()))}))
	pod, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	b.must(err)
	defer pod.Close()
	eth, err := pod.LinkByName("eth0")
	b.must(err)
	addr, err := netlink.ParseAddr("192.0.2.2/24")
	b.must(err)
	b.must(pod.AddrAdd(eth, addr))
	b.must(pod.LinkSetUp(eth))
	b.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)}))
}

func (b *bare) bundle(dir, rootfs, id, namespaces string) {
	spec, linux := b.spec, *b.spec.Linux
	spec.Linux = &linux
	spec.Root = &specs.Root{Path: rootfs, Readonly: b.spec.Root.Readonly}
	linux.CgroupsPath = b.cgroup + "/" + id
	linux.Namespaces = nil
	for _, ns := range b.spec.Linux.Namespaces {
		if ns.Path != "" {
			ns.Path = namespaces + filepath.Base(ns.Path)
		}
		linux.Namespaces = append(linux.Namespaces, ns)
	}
	data, err := json.Marshal(&spec)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
}
