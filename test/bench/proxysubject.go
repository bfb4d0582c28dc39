package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	metricsAddress = "127.0.0.1:10249"
	// A sync is at least that long after the one before; kube-proxy's default is 1 s.
	leastPeriod = 50 * time.Millisecond
)

// proxyRun is a proxy's program at work in a node.
type proxyRun struct {
	name   string
	run    *exec.Cmd
	output string // file
	client *http.Client
	done   chan struct{} // the watch of children ends
	over   sync.WaitGroup

	mu    sync.Mutex
	child int64 // bytes of the biggest child
}

// start runs nodekit's proxy, or kube-proxy in a mode.
func (w *proxyWorld) start(dir, mode string) (*proxyRun, error) {
	p := &proxyRun{name: "nodekit", output: filepath.Join(dir, "output"), done: make(chan struct{})}
	var command []string
	if mode == "nodekit" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = []string{self, "proxy-agent", "--api", w.url}
	} else {
		program, err := lookProgram("kube-proxy")
		if err != nil {
			return nil, err
		}
		p.name = "kube-proxy 1.37 " + mode
		config := filepath.Join(dir, "config.yaml")
		if err := w.writeConfig(dir, config, mode); err != nil {
			return nil, err
		}
		command = []string{program, "--config", config, "-v", "0"}
	}
	output, err := os.Create(p.output)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()
	p.run = exec.Command(command[0], command[1:]...)
	p.run.Stdout, p.run.Stderr = output, output
	p.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = w.node.Do(func() error { conn, err = new(net.Dialer).DialContext(ctx, network, address); return err })
		return conn, err
	}}}
	if err := w.node.Do(p.run.Start); err != nil {
		return nil, err
	}
	p.over.Go(p.watchChildren)
	return p, nil
}

func (w *proxyWorld) writeConfig(dir, path, mode string) error {
	kubeconfig := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", w.url)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		return err
	}
	text = fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q, contentType: application/json}
mode: %q
clusterCIDR: %q
hostnameOverride: %q
bindAddress: %q
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: %q
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: %[7]s}
iptables: {minSyncPeriod: %[7]s}
`, kubeconfig, mode, podNet, proxyNode, nodeIP, metricsAddress, leastPeriod)
	return os.WriteFile(path, []byte(text), 0o600)
}

// syncCount is what a proxy says of its syncs of IPv4.
type syncCount struct {
	n       int
	sum     time.Duration
	last    time.Time // end of the last
	pending int       // changes of EndpointSlices
	// Changes by other programs that were repaired, and how long that took since
	// they were noticed; nodekit tells that.
	repairs   int
	repairing time.Duration
}

// count reads it from metrics.
//
//	kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 0.0123
func (p *proxyRun) count() (c syncCount, err error) {
	response, err := p.client.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		return c, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case `kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"}`:
			c.sum = time.Duration(number * 1e9)
		case `kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`:
			c.n = int(number)
		case `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`:
			c.last = time.UnixMicro(int64(number * 1e6))
		case "nodekit_proxyrules_drift_repair_seconds_count":
			c.repairs = int(number)
		case "nodekit_proxyrules_drift_repair_seconds_sum":
			c.repairing = time.Duration(number * 1e9)
		case "kubeproxy_sync_proxy_rules_endpoint_changes_pending":
			c.pending = int(number)
		}
	}
	return c, nil
}

var errLate = errors.New("took longer than it may")

// waitSync waits until there was a sync after those, and nothing is pending.
func (p *proxyRun) waitSync(ctx context.Context, after syncCount, limit time.Duration) (syncCount, error) {
	ended := false
	c, err := pollEvery(ctx, 20*time.Millisecond, limit, func() (syncCount, error) {
		if ended = !alive(p.run.Process.Pid); ended {
			return syncCount{}, nil
		}
		c, err := p.count()
		if err == nil && (c.n <= after.n || c.pending > 0) {
			err = fmt.Errorf("%s: %d syncs, %d changes pending", p.name, c.n, c.pending)
		}
		return c, err
	})
	switch {
	case ended:
		err = fmt.Errorf("%s has ended", p.name)
	case err != nil && ctx.Err() == nil:
		err = fmt.Errorf("%w: %w", errLate, err)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, p.tail())
	}
	return c, err
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// measure makes a change and tells how long its sync took, and when it was
// there since the change.
func (p *proxyRun) measure(ctx context.Context, limit time.Duration, change func()) (took, seen time.Duration, err error) {
	before, err := p.count()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	change()
	if _, err = p.waitSync(ctx, before, limit); err != nil {
		return 0, 0, err
	}
	// What came in several parts has several syncs: until there is no more.
	after := before
	for quiet := 10 * leastPeriod; ; quiet = max(quiet, 2*(after.sum-before.sum)) {
		if err := pass(ctx, quiet); err != nil {
			return 0, 0, err
		}
		next, err := p.waitSync(ctx, before, limit)
		if err != nil {
			return 0, 0, err
		}
		if next.n == after.n {
			return after.sum - before.sum, after.last.Sub(began), nil
		}
		after = next
	}
}

// disturb has nft change the rules, and tells how long after the notice they were
// as before, and how long after nft was done.
func (w *proxyWorld) disturb(ctx context.Context, p *proxyRun, limit time.Duration, edit string) (repaired, seen time.Duration, err error) {
	before, err := p.count()
	if err != nil {
		return 0, 0, err
	}
	if err := w.node.Do(func() error {
		out, err := exec.Command("nft", strings.Fields(edit)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("nft %s: %w: %s", edit, err, out)
		}
		return err
	}); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	after, err := pollEvery(ctx, 5*time.Millisecond, limit, func() (syncCount, error) {
		c, err := p.count()
		if err == nil && c.repairs == before.repairs {
			err = errors.New("the rules were not repaired")
		}
		return c, err
	})
	return after.repairing - before.repairing, time.Since(began), err
}

// weigh gives memory and CPU time of the program, of its children what has ended.
func (p *proxyRun) weigh() (weight, error) {
	w, err := weigh([]int{p.run.Process.Pid})
	if err != nil {
		return w, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.run.Process.Pid))
	if err != nil {
		return w, err
	}
	// pid (name) state ..., the 14th and the 15th after the name are the children's
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, at := range []int{13, 14} {
		ticks, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return w, err
		}
		w.cpu += time.Duration(ticks) * tick
	}
	return w, nil
}

// watchChildren notes how big children get.
func (p *proxyRun) watchChildren() {
	pid := p.run.Process.Pid
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ticker.C:
		}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list) // threads come and go
			for child := range strings.FieldsSeq(string(text)) {
				status, _ := os.ReadFile("/proc/" + child + "/status")
				if _, rest, found := strings.Cut(string(status), "\nVmHWM:"); found {
					kilobytes, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
					p.mu.Lock()
					p.child = max(p.child, kilobytes*1024)
					p.mu.Unlock()
				}
			}
		}
	}
}

func (p *proxyRun) biggestChild() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}

// end stops the program; its rules stay.
func (p *proxyRun) end() (*os.ProcessState, error) {
	err := p.run.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(time.Minute, func() { _ = p.run.Process.Kill() })
	_ = p.run.Wait() // kube-proxy tells its end by SIGTERM as a failure
	if !late.Stop() {
		err = errors.Join(err, fmt.Errorf("%s did not end", p.name))
	}
	close(p.done)
	p.over.Wait()
	p.client.CloseIdleConnections()
	return p.run.ProcessState, err
}

func (p *proxyRun) kill() error {
	_ = p.run.Process.Kill()
	_, _ = p.end()
	return nil
}

// tail is the end of what the program said.
func (p *proxyRun) tail() string {
	data, _ := os.ReadFile(p.output)
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "")
}
