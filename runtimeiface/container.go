package runtimeiface

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Containers makes and ends the containers of a sandbox.
type Containers interface {
	// CreateContainer prepares a container: root file system, cgroup and
	// process are made, the program does not run yet. If a container with
	// spec's Name and Attempt is in the sandbox, its ID is given. A failed call
	// leaves nothing behind. ErrNotFound: no such sandbox, no such image, or no
	// PIDTarget in that sandbox; ErrNotRunning: the sandbox is not ready, or
	// PIDTarget does not run; ErrInvalid names a bad field. Whether the program
	// can be run is for StartContainer to say.
	CreateContainer(ctx context.Context, sandboxID string, spec ContainerSpec) (id string, err error)
	// StartContainer runs the program. Running already: nil. Exited:
	// ErrNotRunning. An error that says the program could not be run (no such
	// file, no permission) leaves the container ContainerExited with code 128
	// and ReasonStartError.
	StartContainer(ctx context.Context, id string) error
	// RunContainers creates all the containers of specs in one sandbox, then starts
	// all, and gives their IDs in the order of specs. No program runs unless every
	// container could be created: if one cannot, none of those that this call made
	// is left. If one cannot be started, all that did not run before this call
	// are left ContainerExited, to be looked at; those that it started are killed. What is there already
	// with its Name and Attempt is taken as in CreateContainer and StartContainer.
	// Errors name the container, and ids is nil with one. Without specs nothing
	// is done, even if there is no such sandbox. Programs start as close together
	// as the backend can have it.
	RunContainers(ctx context.Context, sandboxID string, specs []ContainerSpec) (ids []string, err error)
	// UpdateContainer sets limits of a created or running container anew; what
	// resources leaves nil or zero stays as it is, and devices cannot be changed.
	// The new limits hold when it returns. A limit that the kernel refuses is an
	// error. So is memory below what is used, where the kernel refuses that
	// (cgroup v1) or the backend looks first; otherwise the kernel makes room, at
	// worst by killing. ErrNotFound; ErrNotRunning: it has exited; ErrInvalid:
	// resources has devices.
	UpdateContainer(ctx context.Context, id string, resources specs.LinuxResources) error
	// StopContainer sends the stop signal, and SIGKILL to all processes once
	// grace has passed; grace <= 0 kills at once. It returns when the container
	// has exited. A second call with less grace shortens the first, never
	// lengthens it. Created containers become ContainerExited. Unknown or
	// exited: nil. If ctx ends first, the stop goes on and ctx's error is given.
	// No process of a container outlives its first one, whatever ended that.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	// RemoveContainer kills the container if it runs and forgets it, with its
	// writable layer. Its log stays. Unknown: nil.
	RemoveContainer(ctx context.Context, id string) error
	// ContainerStatus gives a copy of the state of one container, or ErrNotFound.
	ContainerStatus(ctx context.Context, id string) (Container, error)
	// ListContainers gives copies, oldest first.
	ListContainers(ctx context.Context, filter ContainerFilter) ([]Container, error)
}

// ContainerSpec is what a container shall be.
type ContainerSpec struct {
	// Name within the pod; required. Name and Attempt are its identity in the
	// sandbox.
	Name    string
	Attempt uint32
	// Image is the ID that PullImage or ImageStatus gave; required.
	Image string
	// Command replaces the image's entry point and its arguments, Args replaces
	// its arguments; both empty take the image's.
	Command, Args []string
	// Env is NAME=value, added to the image's, later ones win.
	Env []string
	// WorkingDir, or "" for the image's.
	WorkingDir string
	// Mounts beside the root file system, /proc, /dev, /sys, /dev/shm,
	// /etc/hostname and /etc/resolv.conf, which the backend gives. Type is
	// "bind" (Source a path on the host that is there), "tmpfs", or "image": the
	// content of another image, read-only, Source its ID, in Options "subpath=a/b"
	// for a directory of it. ErrNotFound: no such image; ErrInvalid: no such
	// directory in it. Symbolic links in a subpath never lead out of the image.
	// The image is in use by the container as if it stood on it. Options as in
	// the OCI specification, such as "rbind", "ro"; "rprivate" is the default,
	// "rslave" shows mounts that the host makes below Source later, "rshared"
	// those of either to the other; both want Source on a shared mount, else an
	// error of CreateContainer or StartContainer. "rro" makes mounts below
	// read-only too, or fails with ErrNotSupported.
	Mounts []specs.Mount
	// Devices of the host, beside the usual null, zero, full, random, urandom, tty.
	Devices []specs.LinuxDevice
	// Labels can be filtered by, Annotations are carried. Both come back as given.
	Labels, Annotations map[string]string
	// LogPath below the sandbox's LogDirectory; "" keeps no log. Its format is
	// the CRI's: "2016-10-06T00:17:09.669794202Z stdout F text", tag P on parts
	// of a line longer than 16 KiB.
	LogPath string
	// Stdin keeps standard input open for Attach; StdinOnce closes it when the
	// first attached client leaves, if there is no TTY; TTY gives a terminal
	// instead of pipes. Without Stdin there is nothing to read.
	Stdin, StdinOnce, TTY bool
	// StopSignal, such as "SIGQUIT"; "" means the image's, else SIGTERM.
	StopSignal string
	// Security is who the process is and what it may do.
	Security Security
	// Resources are the cgroup's limits, nil for none. Linux only.
	Resources *specs.LinuxResources
	// OOMScoreAdj of the process. A backend that may not lower its own gives
	// the lowest that it may.
	OOMScoreAdj int
	// PID overrides the sandbox's PID mode; "" takes it. With NamespaceTarget the
	// container joins the PID namespace of PIDTarget, the ID of a running
	// container of the same sandbox.
	PID       NamespaceMode
	PIDTarget string
}

// SeccompType says which system-call filter applies.
type SeccompType string

// Filters.
const (
	SeccompUnconfined     SeccompType = "Unconfined"
	SeccompRuntimeDefault SeccompType = "RuntimeDefault"
	SeccompLocalhost      SeccompType = "Localhost"
)

// AppArmorType says which AppArmor profile confines a container.
type AppArmorType string

// Profiles.
const (
	AppArmorUnconfined     AppArmorType = "Unconfined"
	AppArmorRuntimeDefault AppArmorType = "RuntimeDefault"
	AppArmorLocalhost      AppArmorType = "Localhost"
)

// SELinux is a label's parts; "" leaves one to the backend.
type SELinux struct {
	User, Role, Type, Level string
}

// Security is who a container's process is and what it may do. The zero value
// is the image's user with the backend's default capabilities (those of
// containerd v2.4: CHOWN, DAC_OVERRIDE, FSETID, FOWNER, MKNOD, NET_RAW, SETGID,
// SETUID, SETFCAP, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, KILL, AUDIT_WRITE).
type Security struct {
	// Privileged gives every capability and device and unmasks /proc and /sys.
	// Its sandbox must be Privileged too, else ErrInvalid.
	Privileged bool
	// AddCapabilities and DropCapabilities name capabilities without "CAP_", or
	// "ALL"; drops win over the default set, adds over "ALL" dropped. A user that
	// is not root has none of them effective: they bound what a program with file
	// capabilities may gain, and are not ambient.
	AddCapabilities, DropCapabilities []string
	// RunAsUser, RunAsGroup: nil takes the image's user. SupplementalGroups are
	// added to those of the image's /etc/group, unless StrictGroups leaves these
	// out; ErrNotSupported where the backend cannot.
	RunAsUser, RunAsGroup *int64
	SupplementalGroups    []int64
	StrictGroups          bool
	NoNewPrivileges       bool
	ReadOnlyRootFS        bool
	// Seccomp: "" means SeccompUnconfined. SeccompProfile is an absolute path
	// to an OCI profile in JSON, for SeccompLocalhost.
	Seccomp        SeccompType
	SeccompProfile string
	// AppArmor: "" means AppArmorRuntimeDefault, which is none where the kernel has
	// no AppArmor. AppArmorProfile names a profile that the kernel has loaded, for
	// AppArmorLocalhost; if it has not, the container is not created.
	// A privileged container is confined only by AppArmorLocalhost.
	AppArmor        AppArmorType
	AppArmorProfile string
	// SELinux labels process and files where the kernel has SELinux, and is nothing
	// where it has not; nil is the backend's choice. ErrNotSupported where the
	// backend cannot label.
	SELinux *SELinux
	// MaskedPaths and ReadonlyPaths: nil takes the defaults of runc's spec,
	// empty masks none.
	MaskedPaths, ReadonlyPaths []string
}

// ContainerState is a container's state.
type ContainerState string

// States of a container; a container goes only forward through the first three.
const (
	ContainerCreated ContainerState = "Created"
	ContainerRunning ContainerState = "Running"
	ContainerExited  ContainerState = "Exited"
	// ContainerUnknown: the backend cannot tell now.
	ContainerUnknown ContainerState = "Unknown"
)

// Reasons of an exited container, as Kubernetes shows them.
const (
	ReasonCompleted = "Completed" // exit code 0
	ReasonError     = "Error"     // any other exit code or signal
	// ReasonOOMKilled: the kernel killed a process of it for memory, the first one
	// or any other, at any time of its life; the exit code is the first one's own,
	// and may be 0. So has containerd v2.4, and so the kubelet shows it.
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError" // the program could not be run
	ReasonUnknown    = "ContainerStatusUnknown"
)

// ExitCodeUnknown is told, with ReasonUnknown, when nobody could see the exit:
// its keeper was killed, or the machine was.
const ExitCodeUnknown = 137

// Container is what a container is.
type Container struct {
	ID, SandboxID       string
	Name                string
	Attempt             uint32
	Labels, Annotations map[string]string
	State               ContainerState
	// Image as asked for, ImageID the content's.
	Image, ImageID string
	// CreatedAt, StartedAt, FinishedAt: zero until it happened.
	CreatedAt, StartedAt, FinishedAt time.Time
	// ExitCode, Reason and Message count once State is ContainerExited.
	ExitCode int32
	Reason   string
	Message  string
	// LogPath is absolute, or "".
	LogPath string
	// PID of the first process in the caller's PID namespace; 0 if none.
	PID int
	// Cgroup is absolute from each hierarchy's root; "" if not known.
	Cgroup string
}

// ContainerFilter selects; zero fields select all, set fields must all match.
type ContainerFilter struct {
	ID        string
	SandboxID string
	State     ContainerState
	Labels    map[string]string
}
