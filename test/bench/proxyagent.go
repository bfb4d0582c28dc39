package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
)

// agentGap is what minSyncPeriod is to kube-proxy: events of one change gather.
const agentGap = 2 * time.Millisecond

// What of what is in use may be garbage: so many percent, and so many bytes in any
// case, or a small heap is looked through with each change.
const (
	agentGarbage = 15
	leastGarbage = 6 << 20
)

// proxyAgentMain is a proxy of nodekit's parts that follows an API server: what
// kube-proxy is measured beside.
func proxyAgentMain(args []string) int {
	flags := flag.NewFlagSet("nodebench proxy-agent", flag.ContinueOnError)
	api := flags.String("api", "", "URL of the API server")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	return exitCode(runProxyAgent(ctx, *api))
}

func runProxyAgent(ctx context.Context, api string) (err error) {
	dialect, err := nftables.Open(nftables.Config{Table: "nodebench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dialect.Close()) }()
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Watch: dialect.Watch, MinGap: agentGap, Node: proxyrules.Node{
		Name: proxyNode, Addresses: []netip.Addr{netip.MustParseAddr(nodeIP)}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(podNet)}}})
	if err != nil {
		return err
	}
	health, err := proxyhealth.New(proxyhealth.Config{Proxy: proxy, Mode: "nftables"})
	if err != nil {
		return err
	}
	parts, running := errgroup.WithContext(ctx)
	parts.Go(func() error { return proxy.Run(running) })
	parts.Go(func() error { return health.Run(running) })
	server := &http.Server{Addr: metricsAddress, Handler: health.Handler(), ReadHeaderTimeout: time.Minute}
	parts.Go(func() error {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	context.AfterFunc(running, func() { _ = server.Close() })
	parts.Go(func() error { return followAPI(running, api, proxy) })
	if err := parts.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// followAPI gives the proxy what the API server has, and each change at once.
func followAPI(ctx context.Context, api string, proxy *proxyrules.Proxy) error {
	services, _, err := list[corev1.Service](ctx, api+"/api/v1/services")
	if err != nil {
		return err
	}
	const slicesPath = "/apis/discovery.k8s.io/v1/endpointslices"
	endpoints, version, err := list[discoveryv1.EndpointSlice](ctx, api+slicesPath)
	if err != nil {
		return err
	}
	at := make(map[string]int, len(endpoints))
	for i, s := range endpoints {
		at[s.Namespace+"/"+s.Name] = i
	}
	proxy.Set(services, endpoints)
	if _, err := proxy.Syncs(ctx, 0); err != nil {
		return nil // ctx has ended
	}
	// What lists and a first load leave goes back. What stays hardly changes, so
	// that little garbage is worth waiting for.
	debug.FreeOSMemory()
	var used runtime.MemStats
	runtime.ReadMemStats(&used)
	debug.SetGCPercent(max(agentGarbage, int(100*leastGarbage/used.HeapAlloc)))
	body, err := get(ctx, api+slicesPath+"?watch=true&resourceVersion="+version)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	changed := make(chan *discoveryv1.EndpointSlice, 1000)
	broken := make(chan error, 1)
	go func() {
		events := json.NewDecoder(body)
		for {
			var event struct {
				Type   string
				Object *discoveryv1.EndpointSlice
			}
			if err := events.Decode(&event); err != nil {
				broken <- err
				return
			}
			changed <- trim(event.Object)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("watch: %w", err)
		case s := <-changed:
			for more := true; more; {
				if i, ok := at[s.Namespace+"/"+s.Name]; ok {
					endpoints[i] = s // the benchmark only ever changes what is there
				}
				select {
				case s = <-changed:
				default:
					more = false
				}
			}
		}
		proxy.Set(services, endpoints)
	}
}

// list gets all objects of a kind, one after another, trimmed as an informer
// would keep them, and the version of the list.
func list[T any](ctx context.Context, url string) (items []*T, version string, err error) {
	body, err := get(ctx, url)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = body.Close() }()
	in := json.NewDecoder(body)
	if _, err := in.Token(); err != nil { // {
		return nil, "", err
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, "", err
		}
		var metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		}
		switch key {
		case "items":
			if _, err = in.Token(); err != nil { // [
				return nil, "", err
			}
			for in.More() {
				item := new(T)
				if err := in.Decode(item); err != nil {
					return nil, "", err
				}
				items = append(items, trim(item))
			}
			_, err = in.Token() // ]
		case "metadata":
			err = in.Decode(&metadata)
			version = metadata.ResourceVersion
		default:
			err = in.Decode(new(any))
		}
		if err != nil {
			return nil, "", err
		}
	}
	return items, version, nil
}

func trim[T any](object *T) *T {
	small, _ := proxyrules.Trim(object) // never an error
	return small.(*T)
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return response.Body, nil
}
