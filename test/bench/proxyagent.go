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
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
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
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Watch: dialect.Watch, Node: proxyrules.Node{
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
	var services struct{ Items []*corev1.Service }
	var endpoints struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		}
		Items []*discoveryv1.EndpointSlice
	}
	for path, into := range map[string]any{"/api/v1/services": &services, "/apis/discovery.k8s.io/v1/endpointslices": &endpoints} {
		body, err := get(ctx, api+path)
		if err != nil {
			return err
		}
		err = json.NewDecoder(body).Decode(into)
		_ = body.Close()
		if err != nil {
			return err
		}
	}
	at := make(map[string]int, len(endpoints.Items))
	for i, s := range endpoints.Items {
		at[s.Namespace+"/"+s.Name] = i
	}
	proxy.Set(services.Items, endpoints.Items)
	body, err := get(ctx, api+"/apis/discovery.k8s.io/v1/endpointslices?watch=true&resourceVersion="+endpoints.Metadata.ResourceVersion)
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
			changed <- event.Object
		}
	}()
	list := endpoints.Items
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("watch: %w", err)
		case s := <-changed:
			list = slices.Clone(list)
			for more := true; more; {
				if i, ok := at[s.Namespace+"/"+s.Name]; ok {
					list[i] = s // the benchmark only ever changes what is there
				}
				select {
				case s = <-changed:
				default:
					more = false
				}
			}
		}
		proxy.Set(services.Items, list)
	}
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
