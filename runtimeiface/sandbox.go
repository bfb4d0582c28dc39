package runtimeiface

import (
	"context"
	"net/netip"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Sandboxes makes and ends pod sandboxes: the namespaces, network and cgroup
// that the containers of one pod share.
type Sandboxes interface {
	// RunSandbox makes a sandbox and gives its ID once it is ready, with its
	// network up. If a ready sandbox with spec's UID and Attempt is there, its
	// ID is given; if it is there and not ready, ErrInUse. A failed call leaves
	// nothing behind. ErrInvalid names a bad field, ErrNotSupported one that the
	// backend cannot honour, such as an unknown RuntimeHandler.
	RunSandbox(ctx context.Context, spec SandboxSpec) (id string, err error)
	// StopSandbox ends every container in the sandbox without grace, takes its
	// network away and leaves it SandboxNotReady. Unknown or stopped: nil.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox stops the sandbox if need be and forgets it and all its
	// containers. Logs stay. Unknown: nil.
	RemoveSandbox(ctx context.Context, id string) error
	// SandboxStatus gives a copy of the state of one sandbox, or ErrNotFound.
	SandboxStatus(ctx context.Context, id string) (Sandbox, error)
	// ListSandboxes gives copies, oldest first, never nil entries.
	ListSandboxes(ctx context.Context, filter SandboxFilter) ([]Sandbox, error)
}

// NamespaceMode tells whose namespace a container joins.
type NamespaceMode string

// Modes. The zero value means the default of the field that holds it.
const (
	NamespacePod       NamespaceMode = "pod"       // one for all containers of the pod
	NamespaceContainer NamespaceMode = "container" // one of its own
	NamespaceHost      NamespaceMode = "host"      // the node's
	NamespaceTarget    NamespaceMode = "target"    // another container's, for ContainerSpec.PID only
)

// SandboxSpec is what a sandbox shall be.
type SandboxSpec struct {
	// Name, Namespace and UID of the pod; required. UID and Attempt are the
	// sandbox's identity.
	Name, Namespace, UID string
	// Attempt counts the pod's sandboxes from 0.
	Attempt uint32
	// Hostname inside the UTS namespace; "" means Name. Not used when Network
	// is NamespaceHost.
	Hostname string
	// Labels can be filtered by, Annotations are carried. Both come back as given.
	Labels, Annotations map[string]string
	// LogDirectory is the absolute directory below which ContainerSpec.LogPath
	// lies; required if any container has a LogPath. It is made if missing.
	LogDirectory string
	// CgroupParent is the pod's cgroup, absolute from each hierarchy's root,
	// such as /kubepods/burstable/pod<UID>. The caller made it and removes it.
	// "" lets the backend choose, make and remove one.
	CgroupParent string
	// DNS becomes /etc/resolv.conf of each container; nil takes the host's.
	DNS *DNS
	// PortMappings make ports of the node answer for the pod.
	PortMappings []PortMapping
	// Network and IPC default to NamespacePod, PID to NamespaceContainer.
	Network, PID, IPC NamespaceMode
	// UserNamespace gives the pod a user namespace of its own; nil runs it in the
	// node's. It excludes host modes of Network, PID and IPC. Files of images and
	// volumes keep their owners as seen from within. ErrNotSupported where the
	// backend or the kernel cannot.
	UserNamespace *UserNamespace
	// Privileged lets the sandbox have privileged containers.
	Privileged bool
	// Sysctls are set in the sandbox's namespaces, by dotted name.
	Sysctls map[string]string
	// RuntimeHandler chooses among the runtimes that the backend was configured
	// with; "" is its default.
	RuntimeHandler string
}

// UserNamespace says which IDs of the node stand for those of a pod.
type UserNamespace struct {
	// UIDs and GIDs must map ID 0 and be free of overlaps on either side.
	UIDs, GIDs []specs.LinuxIDMapping
}

// DNS is the content of a resolv.conf, in file order.
type DNS struct {
	Servers, Searches, Options []string
}

// PortMapping makes HostPort of the node answer for ContainerPort of the pod.
type PortMapping struct {
	Protocol      string // "TCP", "UDP" or "SCTP"
	ContainerPort uint16
	HostPort      uint16
	HostIP        netip.Addr // the zero Addr means every address of the node
}

// SandboxState is a sandbox's state.
type SandboxState string

// States of a sandbox. NotReady is final.
const (
	SandboxReady    SandboxState = "Ready"
	SandboxNotReady SandboxState = "NotReady"
)

// Sandbox is what a sandbox is.
type Sandbox struct {
	ID                   string
	Name, Namespace, UID string
	Attempt              uint32
	Labels, Annotations  map[string]string
	State                SandboxState
	CreatedAt            time.Time
	// IPs, the primary first; empty for NamespaceHost and once NotReady.
	IPs []netip.Addr
	// Network is the mode that the sandbox was made with.
	Network NamespaceMode
	// RuntimeHandler is the one asked for.
	RuntimeHandler string
	// PID of a process in the sandbox's network namespace, in the caller's PID
	// namespace; 0 if there is none or it is not known.
	PID int
	// CgroupParent as asked for, or as the backend chose.
	CgroupParent string
	// Cgroup is that of the sandbox's own process, such as pause, absolute from
	// each hierarchy's root; "" if there is none or it is not known.
	Cgroup string
}

// SandboxFilter selects; zero fields select all, set fields must all match.
type SandboxFilter struct {
	ID     string
	UID    string
	State  SandboxState
	Labels map[string]string
}
