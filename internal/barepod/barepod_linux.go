package barepod

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Pod starts and removes pods with one container, one at a time: namespaces, a
// veth pair on the bridge, an overlay, the OCI runtime's run --detach. It
// records nothing, keeps nothing and promises nothing.
type Pod struct {
	// Dir takes what a pod has on disk.
	Dir string
	// Runtime is the program of the OCI runtime; "" starts the container's
	// program by clone and exec alone, in the same namespaces and root: what the
	// kernel costs.
	Runtime string
	// Bridge is the interface that pods are put on.
	Bridge string
	// Cgroup of the containers, below the hierarchies' roots. Not without Runtime.
	Cgroup string
	// Spec and Lowers are a container's, see [Pod.Take].
	Spec   specs.Spec
	Lowers string
}

// count numbers all pods: the kernel takes interfaces away some time after their
// namespace.
var count atomic.Int64

// Take takes specification and layers of a container that runs, from its bundle.
// The container must live as long as the Pod is used.
func (p *Pod) Take(bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &p.Spec)
	}
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if _, rest, ok := strings.Cut(line, "lowerdir="); ok && strings.Contains(line, p.Spec.Root.Path) {
			p.Lowers, _, _ = strings.Cut(rest, ",")
		}
	}
	if p.Lowers == "" {
		return fmt.Errorf("no overlay at %s", p.Spec.Root.Path)
	}
	return nil
}

// Cycle starts a pod and removes it, and gives the time that each took.
func (p *Pod) Cycle() (start, remove time.Duration, err error) {
	begin := time.Now()
	id, namespaces, leave, err := p.namespaces()
	if err != nil {
		return 0, 0, err
	}
	c, err := p.start(id, namespaces)
	if err != nil {
		leave()
		return 0, 0, err
	}
	start = time.Since(begin)
	begin = time.Now()
	err = errors.Join(c.kill(), c.remove())
	leave()
	return start, time.Since(begin), err
}

// Crash starts a pod, has it rest, kills its program, starts the container anew
// once that is known, as another one, and gives the time that this took.
func (p *Pod) Crash(rest func() error) (took time.Duration, err error) {
	id, namespaces, leave, err := p.namespaces()
	if err != nil {
		return 0, err
	}
	defer leave()
	first, err := p.start(id, namespaces)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, first.remove()) }()
	if err := rest(); err != nil {
		return 0, errors.Join(err, first.kill())
	}
	begin := time.Now()
	if err := first.kill(); err != nil {
		return 0, err
	}
	second, err := p.start(id+"-again", namespaces)
	if err != nil {
		return 0, err
	}
	took = time.Since(begin)
	return took, errors.Join(second.kill(), second.remove())
}

// container is one that runs. It is killed, and then removed.
type container struct{ kill, remove func() error }

func (p *Pod) start(id, namespaces string) (_ *container, err error) {
	dir := filepath.Join(p.Dir, id)
	rootfs := filepath.Join(dir, "rootfs")
	wipe := func() error { return errors.Join(unix.Unmount(rootfs, unix.MNT_DETACH), os.RemoveAll(dir)) }
	defer func() {
		if err != nil {
			err = errors.Join(err, wipe())
		}
	}()
	for _, sub := range []string{"rootfs", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", p.Lowers, dir, dir)
	if err := unix.Mount("overlay", rootfs, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	if p.Runtime == "" {
		end, err := p.exec(rootfs)
		return &container{kill: end, remove: wipe}, err
	}
	if err := p.bundle(dir, rootfs, id, namespaces); err != nil {
		return nil, err
	}
	if err := p.oci("run", "--detach", "--bundle", dir, "--pid-file", filepath.Join(dir, "pid"), id); err != nil {
		return nil, err
	}
	return &container{
		kill:   func() error { return p.kill(filepath.Join(dir, "pid")) },
		remove: func() error { return errors.Join(p.oci("delete", id), wipe()) },
	}, nil
}

// kill ends the process whose number file holds, and waits until it has ended:
// the OCI runtime itself would look every 100 ms.
func (p *Pod) kill(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (p *Pod) oci(args ...string) error {
	cmd := exec.Command(p.Runtime, append([]string{"--root", filepath.Join(p.Dir, "state")}, args...)...)
	// A file, not a pipe: the container keeps it open.
	stderr, err := os.Create(filepath.Join(p.Dir, "stderr"))
	if err != nil {
		return err
	}
	defer func() { _ = stderr.Close() }()
	cmd.Stderr = stderr
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(stderr.Name())
		return fmt.Errorf("%s: %w: %s", args[0], err, text)
	}
	return nil
}

// exec is clone and exec, with no more of a container than its namespaces and
// root.
func (p *Pod) exec(rootfs string) (end func() error, err error) {
	cmd := exec.Command(p.Spec.Process.Args[0], p.Spec.Process.Args[1:]...)
	cmd.Err, cmd.Dir = nil, "/" // the program is in rootfs, not here
	cmd.Path = p.Spec.Process.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: rootfs, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | unix.CLONE_NEWCGROUP,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return err
	}, nil
}

// namespaces makes those of a pod, with its network, and gives its name and their
// directory.
func (p *Pod) namespaces() (id, dir string, leave func(), err error) {
	id = fmt.Sprintf("bare%d", count.Add(1))
	dir, leave, err = makeNamespaces()
	if err != nil {
		return "", "", nil, err
	}
	if err := p.network(dir, id); err != nil {
		leave()
		return "", "", nil, fmt.Errorf("network: %w", err)
	}
	return id, dir, leave, nil
}

// makeNamespaces gives the directory of those of a thread that waits for leave.
func makeNamespaces() (dir string, leave func(), err error) {
	left := make(chan struct{})
	wait := make(chan struct{})
	made := make(chan error)
	go func() {
		defer close(left)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
		dir = fmt.Sprintf("/proc/%d/task/%d/ns/", os.Getpid(), unix.Gettid())
		made <- err
		<-wait
	}()
	leave = func() { close(wait); <-left }
	if err = <-made; err != nil {
		leave()
		return "", nil, fmt.Errorf("make namespaces: %w", err)
	}
	return dir, leave, nil
}

func (p *Pod) network(namespaces, name string) error {
	bridge, err := netlink.LinkByName(p.Bridge)
	if err != nil {
		return err
	}
	file, err := os.Open(namespaces + "net")
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags, attrs.MasterIndex = name, net.FlagUp, bridge.Attrs().Index
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(file.Fd()))})
	if err != nil {
		return err
	}
	pod, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer pod.Close()
	eth, err := pod.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: net.CIDRMask(24, 32)}}
	if err := pod.AddrAdd(eth, addr); err != nil {
		return err
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return err
	}
	return pod.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)})
}

func (p *Pod) bundle(dir, rootfs, id, namespaces string) error {
	spec, linux := p.Spec, *p.Spec.Linux
	spec.Linux = &linux
	spec.Root = &specs.Root{Path: rootfs, Readonly: p.Spec.Root.Readonly}
	linux.CgroupsPath = p.Cgroup + "/" + id
	linux.Namespaces = nil
	for _, ns := range p.Spec.Linux.Namespaces {
		if ns.Path != "" {
			ns.Path = namespaces + filepath.Base(ns.Path)
		}
		linux.Namespaces = append(linux.Namespaces, ns)
	}
	data, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
}
