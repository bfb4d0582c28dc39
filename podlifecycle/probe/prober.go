package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit/nodekit/podlifecycle/env"
	"github.com/nodekit/nodekit/runtimeiface"
)

// ErrNoPort: the container has no port of the name that a probe asks for.
var ErrNoPort = errors.New("no such port")

const (
	defaultUserAgent = "kube-probe/1.37"
	// maxOutput is how much of a command's output or a body is read.
	maxOutput = 10 << 10
)

// Kind is which of a container's probes is meant.
type Kind string

// Kinds of probes.
const (
	Startup   Kind = "startup"
	Liveness  Kind = "liveness"
	Readiness Kind = "readiness"
)

// Result is a verdict.
type Result string

// Verdicts. Unknown stands before the first attempt's result.
const (
	Unknown Result = ""
	Success Result = "success"
	Failure Result = "failure"
)

// Execer runs commands in containers; runtimeiface.Streams is one.
type Execer interface {
	Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (exitCode int, err error)
}

// Target is what a probe is aimed at.
type Target struct {
	// ContainerID, for exec.
	ContainerID string
	// Container gives the ports that a probe names, and the variables that an
	// exec command names as $(VAR); nil gives none.
	Container *corev1.Container
	// Host is the pod's IP, for probes that name no host.
	Host string
}

// ProberConfig of a Prober.
type ProberConfig struct {
	// Exec may be nil; then exec probes give an error.
	Exec Execer
	// UserAgent of HTTP probes; "" means kube-probe/1.37.
	UserAgent string
	// Stalled gives for how long, in all, something on the node has had to wait
	// for a CPU, and whether that is known; nil reads /proc/pressure/cpu, which
	// Linux has since 4.20. What of it fell into an attempt that timed out is said
	// with the verdict.
	Stalled func() (time.Duration, bool)
}

// Prober makes single attempts. It keeps no state and may be used concurrently.
type Prober struct {
	config ProberConfig
	http   *http.Transport
	grpc   *http.Transport
}

var _ Attempter = (*Prober)(nil)

// NewProber checks config.
func NewProber(config ProberConfig) (*Prober, error) {
	if config.UserAgent == "" {
		config.UserAgent = defaultUserAgent
	}
	if config.Stalled == nil {
		config.Stalled = cpuStalled
	}
	p := &Prober{config: config}
	p.http = &http.Transport{
		// Neither a proxy nor a connection that an earlier attempt made.
		DisableKeepAlives: true, DisableCompression: true, DialContext: dial,
		// Certificates are for names, a probe calls an address.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet
	}
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	p.grpc = &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: dial, Protocols: &plain}
	return p, nil
}

// dial leaves no socket waiting for a minute after each attempt.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(1)
	}
	return conn, nil
}

// Probe makes one attempt, within the probe's timeout, and gives the verdict
// with what was seen (at most 10 KiB and a few words). An error means that the
// attempt could not be made, or that ctx ended, and is no verdict; Result is
// then Unknown.
func (p *Prober) Probe(ctx context.Context, target Target, probe *corev1.Probe) (Result, string, error) {
	timeout := time.Duration(probe.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = time.Second
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stalled, known := p.config.Stalled()
	var result Result
	var output string
	var err error
	switch {
	case probe.Exec != nil:
		result, output, err = p.exec(limited, target, probe.Exec, timeout)
	case probe.HTTPGet != nil:
		result, output, err = p.httpGet(limited, target, probe.HTTPGet)
	case probe.TCPSocket != nil:
		result, output, err = p.tcp(limited, target, probe.TCPSocket)
	case probe.GRPC != nil:
		result, output, err = p.grpcHealth(limited, target, probe.GRPC)
	default:
		err = errors.New("probe has no handler")
	}
	if ctx.Err() != nil {
		// Not the timeout: nobody wants the result any more.
		return Unknown, "", ctx.Err()
	}
	if err != nil {
		return Unknown, output, err
	}
	if known && result == Failure && errors.Is(limited.Err(), context.DeadlineExceeded) {
		output += p.whileStalled(stalled, timeout)
	}
	return result, output, nil
}

// whileStalled says so if the node was short of CPU while an attempt timed out:
// the program may be well.
func (p *Prober) whileStalled(before, timeout time.Duration) string {
	after, known := p.config.Stalled()
	stalled := (after - before).Round(time.Millisecond)
	if !known || stalled < timeout/4 {
		return ""
	}
	return fmt.Sprintf(" (for %v of that time something on the node had to wait for a CPU)", min(stalled, timeout))
}

// cpuStalled reads the first line:
//
//	some avg10=0.12 avg60=0.05 avg300=0.00 total=28124312
//
// total is in microseconds.
func cpuStalled() (time.Duration, bool) {
	data, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0, false
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	_, total, found := bytes.Cut(line, []byte("total="))
	micros, err := strconv.ParseInt(string(total), 10, 64)
	return time.Duration(micros) * time.Microsecond, found && err == nil
}

func (p *Prober) exec(ctx context.Context, target Target, action *corev1.ExecAction, timeout time.Duration) (Result, string, error) {
	if p.config.Exec == nil {
		return Unknown, "", errors.New("exec probe: nothing can run a command")
	}
	command := action.Command
	if target.Container != nil {
		// As written in the manifest; what comes from elsewhere is empty here.
		var environ []string
		for _, e := range target.Container.Env {
			environ = append(environ, e.Name+"="+e.Value)
		}
		command = env.Expand(command, environ)
	}
	out := &limitedBuffer{}
	code, err := p.config.Exec.Exec(ctx, target.ContainerID, runtimeiface.ExecSpec{Command: command, Stdout: out, Stderr: out})
	switch {
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		return Failure, fmt.Sprintf("command %q timed out after %s: %s", command, timeout, out), nil
	case err != nil:
		return Unknown, out.String(), fmt.Errorf("exec %q: %w", command, err)
	case code != 0:
		return Failure, fmt.Sprintf("exit code %d: %s", code, out), nil
	}
	return Success, out.String(), nil
}

// limitedBuffer keeps the first maxOutput bytes and drops the others. It locks,
// because a command's two streams may be written by two goroutines.
type limitedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *limitedBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := maxOutput - b.buf.Len(); room > 0 {
		b.buf.Write(data[:min(room, len(data))])
	}
	return len(data), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (p *Prober) tcp(ctx context.Context, target Target, action *corev1.TCPSocketAction) (Result, string, error) {
	address, err := address(target, action.Host, action.Port)
	if err != nil {
		return Unknown, "", err
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return Failure, err.Error(), nil
	}
	_ = conn.Close()
	return Success, "", nil
}

// address gives host:port; a named port is one of the container's.
func address(target Target, host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = target.Host
	}
	number := int(port.IntVal)
	if port.Type == intstr.String {
		number = 0
		if target.Container != nil {
			for _, have := range target.Container.Ports {
				if have.Name == port.StrVal {
					number = int(have.ContainerPort)
				}
			}
		}
		if number == 0 {
			// The API lets digits pass as a string.
			number, _ = strconv.Atoi(port.StrVal)
		}
	}
	if number < 1 || number > 65535 {
		return "", fmt.Errorf("port %q: %w", port.String(), ErrNoPort)
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}
