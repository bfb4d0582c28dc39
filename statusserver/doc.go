// Package statusserver shows over HTTP what a node agent knows: the read
// endpoints of a kubelet, two that no one else has, and a page for a person.
//
//	server, err := statusserver.New(statusserver.Config{
//		Listeners: []statusserver.Listener{statusserver.LoopbackListener(statusserver.ReadOnlyPort)},
//		NodeName:  "node-a",
//		UI:        true,
//		Pods:      statusserver.PodsFunc(manager.Pods),
//		Stats:     statusserver.StatsFunc(meter.Summary),
//	})
//	if err != nil {
//		return err
//	}
//	return server.Run(ctx)
//
// # Endpoints
//
// Each is fed by a field of Config; without it the path answers 404 and says
// which one. The right-hand column is what the Authorizer is asked for, always
// with the verb get on the resource nodes. Formats are those of Kubernetes
// v1.37.0 pkg/kubelet/server and cAdvisor 0.60.
//
//	/healthz /livez /readyz (?verbose, ?exclude=, /<check>)   Checks            healthz
//	/pods, /runningpods/                 v1.PodList           Pods              pods
//	/spec                                cAdvisor MachineInfo Spec              spec
//	/stats/summary (?only_cpu_and_memory) Summary v1alpha1    Stats             stats
//	/metrics                             Prometheus text      Metrics           metrics
//	/metrics/cadvisor                    Prometheus text      ContainerMetrics  metrics
//	/metrics/resource                    Prometheus text      ResourceMetrics   metrics
//	                                     or OpenMetrics       OpenMetrics
//	/containerLogs/{ns}/{pod}/{container} text, followed      Logs              proxy
//	/burden (?format=text)               JSON or text         Burden            stats
//	/why/{ns}/{pod} (?format=text)       JSON or text         Why               pods
//	/proxy/trace?from=&to=&proto=        JSON or text         Trace             proxy
//	/ui/                                 the page             UI                proxy
//
// # JSON of why, trace and burden
//
// Providers answer with any fmt.Stringer that json.Marshal can write. The page
// shows these fields and lives with the absence of each; what else there is, it
// leaves alone. Times are RFC 3339; records go from the oldest to the newest.
//
//	{"pod": "ns/name", "uid": "", "phase": "Running", "ready": false,
//	 "summary": "why it is not ready, in one sentence",
//	 "next": {"action": "", "at": "time", "reason": ""},
//	 "problems": ["what is wrong with its manifest"],
//	 "records": [{"time": "", "container": "", "rule": "", "input": "",
//	              "action": "", "reason": "", "result": "", "error": "",
//	              "count": 1, "last": "", "took": 1000000}]}
//
//	{"packet": {"from": "", "to": "", "protocol": "TCP"},
//	 "verdict": "balance", "service": "ns/name", "portName": "",
//	 "steps": [{"chain": "", "rule": "", "text": ""}],
//	 "backends": [{"addr": "10.88.0.2:8080", "odds": 0.5, "target": "ns/name",
//	               "masquerade": false, "terminating": false}],
//	 "text": ""}
//
//	{"time": "", "allocatable": {"cpu": 3.5, "memory": 16000000000},
//	 "used": {"cpu": 0.7, "memory": 2000000000},
//	 "burdens": [{"name": "ns/name", "cgroup": "/kubepods/pod1", "share": 0.1,
//	              "used": {"cpu": 0.3, "memory": 1000000000}, "reasons": [""]}]}
//
// CPU is in cores, memory in bytes; burdens begin with the heaviest.
// took is in nanoseconds. In a trace, from, to and protocol may stand outside
// packet, and rules, note, address with port, and pod may be said for steps,
// text, addr and target.
//
// # Who gets in
//
// Nothing listens unless Listeners say so, and a listener without an Authorizer
// is an error from New. Before the authorizer is asked, every request passes
// guards: GET and HEAD only, clean paths, a Host header that is an address or a
// known name (DNS rebinding), no requests from pages of other origins, bounds on
// header, body, time and streams. Names in paths are checked, so that providers
// may make file names of them.
//
// What it is not: it runs nothing in containers (exec, attach and port-forward
// are handlers to be installed explicitly, and ask for create), authenticates no
// one beyond the address or user at the other end, and stores nothing.
//
// Traps: LoopbackOnly lets every user of the machine read, logs and the
// environment of pods included; use a unix socket to keep them out. Run waits
// for providers, so they must heed their ctx. Behind a name other than localhost
// the listener needs Hosts.
package statusserver
