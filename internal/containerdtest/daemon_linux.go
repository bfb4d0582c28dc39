package containerdtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answerTime is how long containerd may take until it listens.
const answerTime = 2 * time.Minute

// Config of a Daemon.
type Config struct {
	// Dir takes all that it keeps; required, absolute, short: a socket's path is
	// at most 107 bytes.
	Dir string
	// Pause is the image of sandboxes, that containerd can pull; required.
	Pause string
	// Handlers by name; "runc" is the default and there anyway.
	Handlers map[string]Handler
}

// Handler is an OCI runtime of containerd's.
type Handler struct {
	// Program in PATH or by path; "" is runc.
	Program string
	// Root of the runtime's state; "" is containerd's choice.
	Root string
}

// Daemon is a containerd with its CRI.
type Daemon struct {
	// Socket is where it listens.
	Socket string
	config Config
	bin    string
	run    *exec.Cmd
}

// New writes the configuration of a containerd that is in PATH, with its shim
// and, in folder cni beside it, the CNI plug-ins bridge, host-local, loopback
// and portmap.
func New(config Config) (*Daemon, error) {
	program, err := exec.LookPath("containerd")
	if err != nil {
		return nil, err
	}
	d := &Daemon{config: config, Socket: filepath.Join(config.Dir, "c.sock"), bin: filepath.Dir(program)}
	return d, errors.Join(d.write("config.toml", d.toml()), d.write("net.d/10-test.conflist", d.conflist()))
}

func (d *Daemon) toml() string {
	in := func(name string) string { return filepath.Join(d.config.Dir, name) }
	var b strings.Builder
	fmt.Fprintf(&b, `version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %[3]q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %[4]q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
cdi_spec_dirs = []
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%[5]q]
conf_dir = %[6]q
[plugins."io.containerd.internal.v1.opt"]
path = %[7]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`, in("root"), in("state"), d.Socket, d.config.Pause, filepath.Join(d.bin, "cni"), in("net.d"), in("opt"))
	for name, h := range d.config.Handlers {
		fmt.Fprintf(&b, `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s.options]
BinaryName = %[2]q
Root = %[3]q
`, name, h.Program, h.Root)
	}
	return b.String()
}

func (d *Daemon) conflist() string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "test",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.87.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`, filepath.Join(d.config.Dir, "ipam"))
}

func (d *Daemon) write(path, text string) error {
	path = filepath.Join(d.config.Dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// Start starts containerd, and returns once it listens.
func (d *Daemon) Start() error {
	log, err := os.OpenFile(filepath.Join(d.config.Dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	d.run = exec.Command(filepath.Join(d.bin, "containerd"), "--config", filepath.Join(d.config.Dir, "config.toml"))
	d.run.Stdout, d.run.Stderr = log, log
	if err := d.run.Start(); err != nil {
		d.run = nil
		return err
	}
	for deadline := time.Now().Add(answerTime); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", d.Socket)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			d.Kill()
			return fmt.Errorf("containerd does not listen: %w\n%s", err, d.Tail())
		}
	}
}

// PID of the process, 0 if it does not run.
func (d *Daemon) PID() int {
	if d.run == nil {
		return 0
	}
	return d.run.Process.Pid
}

// Kill ends containerd as a crash would. Its shims and containers go on.
func (d *Daemon) Kill() {
	if d.run != nil {
		_ = d.run.Process.Kill()
		_ = d.run.Wait()
		d.run = nil
	}
}

// Close ends containerd, without a word to its pods, and removes what it kept.
// What still runs of it is told as an error.
func (d *Daemon) Close() error {
	if d.run != nil {
		_ = d.run.Process.Signal(unix.SIGTERM)
		_ = d.run.Wait()
		d.run = nil
	}
	var errs []error
	for _, p := range d.Processes() {
		errs = append(errs, fmt.Errorf("left behind: process %s", p))
	}
	d.unmount()
	// The directory of all sandboxes without a parent, if nobody else has any.
	for _, pattern := range []string{"/sys/fs/cgroup/k8s.io", "/sys/fs/cgroup/*/k8s.io"} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			_ = unix.Rmdir(dir)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(d.config.Dir))...)
}

// Processes are those that have the socket among their words: containerd and its
// shims. Each is "/proc/PID/cmdline words".
func (d *Daemon) Processes() []string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte(d.Socket)) {
			out = append(out, p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// Unnoted counts the shims that containerd v2.4.2 has begun to start and would not
// find if it were killed now: until it has their bootstrap.json, which
// core/runtime/v2/binary.go writes last and shim_load.go reads.
func (d *Daemon) Unnoted() int {
	bundles, _ := filepath.Glob(filepath.Join(d.config.Dir, "state", "io.containerd.runtime.v2.task", "*", "*"))
	n := 0
	for _, dir := range bundles {
		if _, err := os.Stat(filepath.Join(dir, "bootstrap.json")); err != nil {
			n++
		}
	}
	return n
}

func (d *Daemon) unmount() {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var targets []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.config.Dir+"/") {
			targets = append(targets, f[4])
		}
	}
	for i := len(targets) - 1; i >= 0; i-- {
		_ = unix.Unmount(targets[i], unix.MNT_DETACH)
	}
}

// Tail is the end of containerd's log.
func (d *Daemon) Tail() string {
	data, _ := os.ReadFile(filepath.Join(d.config.Dir, "containerd.log"))
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "")
}
