package cri

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// settled is how long after its end a container's reason may still change: the
// kernel's word for out of memory comes beside the exit.
const settled = 5 * time.Second

// knownSandbox is a status, and the spec that the sandbox was made with.
type knownSandbox struct {
	runtimeiface.Sandbox
	spec runtimeiface.SandboxSpec
	made bool // by this package
}

func (s knownSandbox) copy() runtimeiface.Sandbox {
	out := s.Sandbox
	out.Labels, out.Annotations, out.IPs = maps.Clone(out.Labels), maps.Clone(out.Annotations), slices.Clone(out.IPs)
	return out
}

// cache spares a status call for each item of a list. What it holds of an
// object is true for as long as the object's state is the same.
type cache struct {
	mu         sync.Mutex
	sandboxes  map[string]knownSandbox
	containers map[string]runtimeiface.Container
	// stopped are containers that were stopped before they ran, which no CRI knows.
	stopped map[string]time.Time
	// started are containers that this Runtime started, ran the specs of sandboxes
	// that it ran: no need to ask.
	started map[string]bool
	ran     map[string]runtimeiface.SandboxSpec
}

func (c *cache) init() {
	c.sandboxes, c.containers, c.stopped = map[string]knownSandbox{}, map[string]runtimeiface.Container{}, map[string]time.Time{}
	c.started, c.ran = map[string]bool{}, map[string]runtimeiface.SandboxSpec{}
}

func (c *cache) sandbox(id string) (knownSandbox, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.sandboxes[id]
	return s, ok
}

func (c *cache) keepSandbox(s knownSandbox) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sandboxes[s.ID] = s
}

func (c *cache) dropSandbox(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sandboxes, id)
	delete(c.ran, id)
}

// forgetSandbox is dropSandbox with the containers that went with it.
func (c *cache) forgetSandbox(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sandboxes, id)
	delete(c.ran, id)
	for container, got := range c.containers {
		if got.SandboxID == id {
			delete(c.containers, container)
			delete(c.stopped, container)
			delete(c.started, container)
		}
	}
}

// container gives what is known of a container, as a copy.
func (c *cache) container(id string) (runtimeiface.Container, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	got, ok := c.containers[id]
	got.Labels, got.Annotations = maps.Clone(got.Labels), maps.Clone(got.Annotations)
	return got, ok
}

func (c *cache) keepContainer(got runtimeiface.Container) {
	got.Labels, got.Annotations = maps.Clone(got.Labels), maps.Clone(got.Annotations)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers[got.ID] = got
}

func (c *cache) dropContainer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.containers, id)
	delete(c.stopped, id)
	delete(c.started, id)
}

func (c *cache) start(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started[id] = true
}

func (c *cache) hasStarted(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started[id]
}

func (c *cache) run(id string, spec runtimeiface.SandboxSpec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ran[id] = spec
}

// madeHere is what CreateContainer wants to know of a sandbox that was ready.
func (c *cache) madeHere(id string) (knownSandbox, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.sandboxes[id]; ok && s.State == runtimeiface.SandboxReady {
		return s, true
	}
	spec, ok := c.ran[id]
	return knownSandbox{Sandbox: runtimeiface.Sandbox{ID: id}, spec: spec, made: true}, ok
}

func (c *cache) stop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.stopped[id]; !ok {
		c.stopped[id] = time.Now()
	}
}

func (c *cache) stoppedAt(id string) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.stopped[id]
	return at, ok
}

// prune forgets what is not there.
func (c *cache) prune(there map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.sandboxes, func(id string, _ knownSandbox) bool { return !there[id] })
	maps.DeleteFunc(c.containers, func(id string, _ runtimeiface.Container) bool { return !there[id] })
	maps.DeleteFunc(c.ran, func(id string, _ runtimeiface.SandboxSpec) bool { return !there[id] })
	maps.DeleteFunc(c.started, func(id string, _ bool) bool { return !there[id] })
	maps.DeleteFunc(c.stopped, func(id string, at time.Time) bool { // not one made after the list
		return !there[id] && time.Since(at) > time.Minute
	})
}

func sandboxState(s api.PodSandboxState) runtimeiface.SandboxState {
	if s == api.PodSandboxState_SANDBOX_READY {
		return runtimeiface.SandboxReady
	}
	return runtimeiface.SandboxNotReady
}

func toSandbox(response *api.PodSandboxStatusResponse) knownSandbox {
	in := response.Status
	labels, annotations, k, made := unmarked(in.Labels, in.Annotations)
	s := knownSandbox{made: made, Sandbox: runtimeiface.Sandbox{
		ID: in.Id, Name: in.Metadata.GetName(), Namespace: in.Metadata.GetNamespace(), UID: in.Metadata.GetUid(),
		Attempt: in.Metadata.GetAttempt(), Labels: labels, Annotations: annotations, State: sandboxState(in.State),
		CreatedAt: at(in.CreatedAt), Network: runtimeiface.NamespacePod, RuntimeHandler: in.RuntimeHandler,
	}}
	if in.Linux.GetNamespaces().GetOptions().GetNetwork() == api.NamespaceMode_NODE {
		s.Network = runtimeiface.NamespaceHost
	}
	verbose := parseInfo(response.Info)
	if s.State == runtimeiface.SandboxReady {
		s.PID = verbose.PID
		if s.PID != 0 {
			s.Cgroup = cmp.Or(cgroupPath(verbose.RuntimeSpec.Linux.CgroupsPath), cgroupOf(s.PID))
		}
		if s.Network == runtimeiface.NamespacePod {
			s.IPs = addresses(in.Network)
		}
	}
	s.CgroupParent = verbose.Config.Linux.CgroupParent
	if k.Sandbox != nil {
		s.spec = *k.Sandbox
		if k.Sandbox.CgroupParent != "" {
			s.CgroupParent = k.Sandbox.CgroupParent
		}
	}
	s.spec.Name, s.spec.Namespace, s.spec.UID, s.spec.Attempt = s.Name, s.Namespace, s.UID, s.Attempt
	s.spec.Labels, s.spec.Annotations = labels, annotations
	return s
}

func addresses(n *api.PodSandboxNetworkStatus) []netip.Addr {
	var out []netip.Addr
	for _, text := range append([]string{n.GetIp()}, texts(n.GetAdditionalIps())...) {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func texts(ips []*api.PodIP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.GetIp())
	}
	return out
}

// at is zero for the CRI's zero.
func at(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// info is what is read of the text under "info" in a verbose status, which
// containerd v2.4 and CRI-O v1.34 have in common:
//
//	{"pid": 4711, "runtimeSpec": {"linux": {"cgroupsPath": "/kubepods/x"}}}
type info struct {
	// NetworkGone is told of sandboxes by containerd.
	NetworkGone *bool  `json:"netNamespaceClosed"`
	PID         int    `json:"pid"`
	SandboxID   string `json:"sandboxID"`
	Config      struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		stdio
		Linux struct {
			CgroupParent string `json:"cgroup_parent"`
		} `json:"linux"`
	} `json:"config"`
	RuntimeSpec struct {
		Process struct {
			Terminal bool `json:"terminal"`
		} `json:"process"`
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// parseInfo reads what it can.
func parseInfo(verbose map[string]string) info {
	var out info
	if json.Unmarshal([]byte(verbose["info"]), &out) != nil || out.PID < 0 {
		return info{}
	}
	return out
}
