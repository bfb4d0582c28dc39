// Package proxyhealth tells others how a Proxy fares, as kube-proxy does
// (Kubernetes v1.37.0 pkg/proxy/healthcheck, pkg/proxy/metrics,
// cmd/kube-proxy/app/server.go):
//
//	/healthz     200, or 503 if an update is overdue or the node is going, JSON
//	/livez       200, or 503 if an update is overdue, JSON
//	/metrics     Prometheus text under kube-proxy's names
//	/proxyMode   the mode, as text
//
// and at the healthCheckNodePort of each load balancer with
// externalTrafficPolicy Local, how many endpoints are on this node: 200, or 503
// if none is or the proxy is unhealthy.
//
//	health, err := proxyhealth.New(proxyhealth.Config{
//		Proxy: proxy, Mode: "nftables",
//		Listen: new(net.ListenConfig).Listen, // for healthCheckNodePorts
//	})
//	go health.Run(ctx)
//	http.Serve(listener, health.Handler())
//
// It opens no port by itself: Handler is for a listener of the caller's, and
// without Config.Listen no healthCheckNodePort is served.
//
// Differences from kube-proxy:
//   - All four paths are on one handler; kube-proxy has two ports, and an "ok"
//     at /healthz of the second. Mount it twice for its ports 10256 and 10249.
//   - Both families are in one transaction. Its figures appear for each family
//     that has a Service.
//   - sync_proxy_rules_nftables_cleanup_failures_total counts calls of
//     Proxy.Cleanup that failed: stale chains go with the transaction itself.
//   - A health check answers at all of the node's addresses with one figure, that
//     of the family that has more endpoints; kube-proxy has one for each family.
//   - A first sync that does not work for a minute is unhealthy, and so are
//     rules that another program changed and that cannot be repaired.
//   - Those of iptables and IPVS mode and of Windows, and localhost node ports,
//     are not there; nodekit_proxyrules_... tells of drift, problems and elements.
package proxyhealth
