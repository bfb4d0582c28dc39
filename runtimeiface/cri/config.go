package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Defaults of Config.
const (
	DefaultTimeout      = 2 * time.Minute
	DefaultRelistPeriod = 30 * time.Second
	DefaultPollPeriod   = time.Second
)

// maxMessage is what the CRI's runtimes limit messages to: 16 MiB, and room for
// what stands around the bytes of an output.
const maxMessage = 16<<20 + 64<<10

// Config of a Runtime.
type Config struct {
	// Endpoint is where the runtime listens, such as
	// unix:///run/containerd/containerd.sock, or npipe:////./pipe/NAME on
	// Windows; required.
	Endpoint string
	// Timeout ends a call that the runtime does not answer, also one whose
	// caller is gone; making a sandbox has twice that, pulls and commands have
	// none. 0 means DefaultTimeout.
	Timeout time.Duration
	// RelistPeriod is between two looks at all sandboxes and containers while
	// the runtime tells events; 0 means DefaultRelistPeriod.
	RelistPeriod time.Duration
	// PollPeriod is the same while it tells none; 0 means DefaultPollPeriod.
	PollPeriod time.Duration
	// Logger is for errors that no caller gets; its zero value discards.
	Logger logr.Logger
}

func (c Config) check() error {
	var errs []error
	if _, _, err := splitEndpoint(c.Endpoint); err != nil {
		errs = append(errs, fmt.Errorf("config: Endpoint %w", err))
	}
	for name, d := range map[string]time.Duration{
		"Timeout": c.Timeout, "RelistPeriod": c.RelistPeriod, "PollPeriod": c.PollPeriod,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("config: %s %v is negative", name, d))
		}
	}
	return errors.Join(errs...)
}

// splitEndpoint reads unix:///run/x.sock, unix:/run/x.sock, npipe:////./pipe/x.
func splitEndpoint(endpoint string) (network, address string, err error) {
	scheme, rest, found := strings.Cut(endpoint, ":")
	switch {
	case endpoint == "":
		return "", "", errors.New("is required")
	case !found || scheme != "unix" && scheme != "npipe":
		return "", "", fmt.Errorf("%q is neither unix:// nor npipe://", endpoint)
	}
	address = strings.TrimPrefix(rest, "//")
	if !strings.HasPrefix(address, "/") || address == "/" || strings.Contains(address, "\x00") {
		return "", "", fmt.Errorf("%q has no absolute path", endpoint)
	}
	return scheme, address, nil
}

// Runtime speaks to one CRI endpoint. It is safe for concurrent use.
type Runtime struct {
	cfg    Config
	conn   *grpc.ClientConn
	rs     api.RuntimeServiceClient
	is     api.ImageServiceClient
	name   string // of the runtime
	locks  keyed
	known  cache
	events watcher

	mu      sync.Mutex
	closing chan struct{}
	closed  bool
	work    sync.WaitGroup
}

var _ runtimeiface.Runtime = (*Runtime)(nil)

// Dial connects to the runtime and asks for its version. It fails with
// ErrUnavailable if nothing answers. The Runtime is to be closed.
func Dial(ctx context.Context, cfg Config) (*Runtime, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("cri: %w", err)
	}
	for d, standard := range map[*time.Duration]time.Duration{
		&cfg.Timeout: DefaultTimeout, &cfg.RelistPeriod: DefaultRelistPeriod, &cfg.PollPeriod: DefaultPollPeriod,
	} {
		if *d == 0 {
			*d = standard
		}
	}
	network, address, _ := splitEndpoint(cfg.Endpoint)
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, network, address) }),
		grpc.WithAuthority("localhost"),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("cri: dial %s: %w", cfg.Endpoint, err)
	}
	r := &Runtime{
		cfg: cfg, conn: conn, rs: api.NewRuntimeServiceClient(conn), is: api.NewImageServiceClient(conn),
		closing: make(chan struct{}),
	}
	r.known.init()
	r.events.init(r)
	version, err := r.Version(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cri: dial %s: %w", cfg.Endpoint, err), r.Close())
	}
	r.name = version.Name
	return r, nil
}

// Close ends the connection, all calls and subscriptions, and waits for them. It
// does not touch what runs.
func (r *Runtime) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	close(r.closing)
	r.mu.Unlock()
	err := r.conn.Close()
	r.work.Wait()
	return err
}

// begin counts a goroutine; it fails once the Runtime is closed.
func (r *Runtime) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	r.work.Add(1)
	return nil
}

// Version names the runtime behind the endpoint.
func (r *Runtime) Version(ctx context.Context) (runtimeiface.Version, error) {
	v, err := ask(ctx, r, r.rs.Version, &api.VersionRequest{})
	if err != nil {
		return runtimeiface.Version{}, translate(ctx, err, "version")
	}
	return runtimeiface.Version{Name: v.RuntimeName, Version: v.RuntimeVersion, Scheme: v.RuntimeName}, nil
}
