package deptest

import "strings"

// Module is this module's path.
const Module = "github.com/nodekit/nodekit"

// Budget of a front package: what `go list -deps` may count beside the standard
// library and nodekit itself.
const (
	MaxPackages = 120
	MaxModules  = 25
)

// Fronts are the packages that a user imports first.
var Fronts = []string{"podlifecycle", "runtimeiface", "metrics", "proxyrules", "statusserver"}

// Part is what a helper of podlifecycle may weigh, so that it is worth importing
// alone.
type Part struct {
	// Packages beside the standard library and nodekit itself, at most.
	Packages int
	// Own packages of nodekit that it needs, with what they need.
	Own []string
}

// Parts are those helpers. All but journal and cgroup weigh what the types of a
// pod do.
var Parts = map[string]Part{
	"podlifecycle/cgroup":    {Packages: 60},
	"podlifecycle/env":       {Packages: 70},
	"podlifecycle/hostfiles": {Packages: 70, Own: []string{"runtimeiface"}},
	"podlifecycle/journal":   {},
	"podlifecycle/manifest":  {Packages: 80},
	"podlifecycle/probe":     {Packages: 75, Own: []string{"podlifecycle/env", "runtimeiface"}},
	"podlifecycle/qos":       {Packages: 70},
	"podlifecycle/security":  {Packages: 70, Own: []string{"runtimeiface"}},
	"podlifecycle/volume":    {Packages: 75, Own: []string{"podlifecycle/env", "podlifecycle/qos"}},
}

// MayImport tells whether package from may import package to; both are paths
// below Module, "" being the root package. Tests are not asked.
func MayImport(from, to string) bool {
	fromFront, toFront := front(from), front(to)
	switch {
	case fromFront == "examples" || fromFront == "test":
		return true
	case fromFront == "internal":
		return toFront == "internal"
	case toFront == "internal":
		return false
	case fromFront == toFront:
		return true // a parent, a child or a sibling below it; Go refuses circles
	case fromFront == "podlifecycle":
		// crilog reads the files whose format runtimeiface promises, and no more;
		// dockerconfig the credentials that pulls by either need.
		return to == "runtimeiface" || to == "runtimeiface/crilog" || to == "runtimeiface/dockerconfig"
	default:
		return false
	}
}

func front(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

// Reasons says why a package, or every package below it, imports a third-party
// module directly. A longer path is asked first, then its parents.
var Reasons = map[string]map[string]string{
	"runtimeiface": {
		"github.com/opencontainers/runtime-spec": "the words for resources, mounts and devices",
		"golang.org/x/sys":                       "system calls that package syscall lacks",
		"github.com/go-logr/logr":                "the caller's logger",
		"k8s.io/utils":                           "an injected clock",
		"github.com/google/go-containerregistry": "names, authentication and manifests of registries",
	},
	"runtimeiface/oci": {
		"github.com/containernetworking/cni": "how a runtime calls CNI plug-ins, by those who specify it",
		"github.com/google/nftables":         "rules of host ports in one transaction and without the nft tool",
		"github.com/moby/profiles/apparmor":  "the default AppArmor profile, as Docker applies it",
		"github.com/moby/profiles/seccomp":   "the default seccomp profile, as containerd and Docker apply it",
		"github.com/vishvananda/netlink":     "bridge, veth, addresses, routes and conntrack",
		"github.com/vishvananda/netns":       "the type of a namespace that netlink takes",
	},
	"runtimeiface/oci/image": {
		"github.com/klauspost/compress": "layers in zstd",
		"golang.org/x/sync":             "a bound on parallel downloads",
	},
	"runtimeiface/cri": {
		"google.golang.org/grpc": "what the CRI is spoken over",
		"k8s.io/cri-api":         "the CRI's messages",
		"k8s.io/streaming":       "SPDY, over which a command's streams go",
	},
	"podlifecycle": {
		"k8s.io/api":                             "pods, Secrets, ConfigMaps, Services",
		"k8s.io/apimachinery":                    "quantities, field paths, validation",
		"k8s.io/component-helpers":               "resource sums and sysctl names as Kubernetes has them",
		"k8s.io/utils":                           "an injected clock",
		"github.com/go-logr/logr":                "the caller's logger",
		"github.com/opencontainers/runtime-spec": "limits and mounts for runtimeiface",
		"golang.org/x/sys":                       "system calls that package syscall lacks",
		"github.com/moby/sys/mountinfo":          "what is mounted where",
	},
	"podlifecycle/cgroup": {
		"github.com/containerd/cgroups/v3": "making and limiting cgroups of v1 and v2",
	},
	"podlifecycle/credential": {
		"sigs.k8s.io/yaml": "the configuration of credential provider plug-ins",
	},
	"podlifecycle/shutdown/logind": {
		"github.com/godbus/dbus/v5": "what logind is spoken to over",
	},
	"podlifecycle/manifest": {
		"sigs.k8s.io/json": "strict decoding that names unknown fields by path",
		"sigs.k8s.io/yaml": "YAML as Kubernetes reads it",
	},
	"proxyrules": {
		"k8s.io/api":              "Services, EndpointSlices, pods",
		"k8s.io/apimachinery":     "selectors and names",
		"k8s.io/utils":            "an injected clock",
		"github.com/go-logr/logr": "the caller's logger",
	},
	"proxyrules/nftables": {
		"github.com/vishvananda/netlink": "conntrack, and the attributes of netlink messages",
		"github.com/vishvananda/netns":   "the type of a namespace that netlink takes",
		"golang.org/x/sys":               "the kernel's numbers for nf_tables",
	},
	"proxyrules/iptables": {
		"github.com/vishvananda/netlink": "conntrack",
		"github.com/vishvananda/netns":   "the type of a namespace that netlink takes",
		"golang.org/x/sys":               "setns, and the kernel's numbers",
	},
	"proxyrules/internal/kernel": {
		"golang.org/x/sys": "a descriptor that is duplicated",
	},
	"proxyrules/hostnet": {
		"github.com/google/nftables":     "a few rules in one transaction and without the nft tool",
		"github.com/vishvananda/netlink": "routes",
		"github.com/vishvananda/netns":   "the type of a namespace that netlink takes",
		"golang.org/x/sys":               "the kernel's numbers",
	},
	"metrics": {
		"golang.org/x/sys":        "openat, pread, statfs, netlink, fanotify and inotify",
		"k8s.io/utils":            "an injected clock",
		"github.com/go-logr/logr": "the caller's logger",
	},
	"metrics/machine": {
		"github.com/google/cadvisor/lib": "MachineInfo, the type behind /spec",
	},
	"metrics/prometheus": {
		"github.com/prometheus/client_golang": "the Collector of embedders",
	},
	"metrics/summary": {
		"k8s.io/apimachinery": "the time type of the Summary API",
		"k8s.io/kubelet":      "the Summary API's types",
	},
	"statusserver": {
		"github.com/go-logr/logr":        "the caller's logger",
		"github.com/google/cadvisor/lib": "MachineInfo, the type behind /spec",
		"k8s.io/api":                     "pods and log options",
		"k8s.io/apimachinery":            "names, and the types within a pod",
		"k8s.io/kubelet":                 "the Summary API's types",
	},
	"internal": {
		"github.com/google/nftables":     "looking for tables that a test left",
		"github.com/vishvananda/netlink": "network namespaces with a loopback and an uplink",
		"golang.org/x/sys":               "unshare and setns",
	},
	"internal/containerdtest": {
		"github.com/google/go-containerregistry": "the image of sandboxes, pushed to the test's registry",
	},
	"internal/barepod": {
		"github.com/opencontainers/runtime-spec": "the bundle that a bare OCI runtime is given",
		"github.com/vishvananda/netns":           "the type of a namespace that netlink takes",
	},
}
