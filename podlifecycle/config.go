package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/podlifecycle/admission"
	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	"github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/qos"
	"github.com/nodekit/nodekit/podlifecycle/security"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
)

// Runtime is what a Manager asks of a container runtime; every
// runtimeiface.Runtime is one.
type Runtime interface {
	runtimeiface.Sandboxes
	runtimeiface.Containers
	runtimeiface.Images
	runtimeiface.Streams
	runtimeiface.Logs
	runtimeiface.Events
	Version(ctx context.Context) (runtimeiface.Version, error)
}

// Cgroups makes and removes the cgroups of pods; *cgroup.Manager is one. Ensure
// of one that is there sets the resources that are not nil, and leaves the rest.
type Cgroups interface {
	Ensure(ctx context.Context, path string, resources *specs.LinuxResources) error
	Remove(ctx context.Context, path string) error
	// MemoryUsage in bytes of what is in the cgroup and below.
	MemoryUsage(ctx context.Context, path string) (int64, error)
}

// Volumes makes and removes the volumes of pods, below Config.Root/pods/UID,
// where the manager has files of its own beside them that Teardown removes too;
// *volume.Manager is one.
type Volumes interface {
	Setup(ctx context.Context, pod *corev1.Pod, objects volume.Objects) error
	Update(ctx context.Context, pod *corev1.Pod, objects volume.Objects) (changed []string, err error)
	Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, environ []string) ([]specs.Mount, error)
	// File reads a file that a container has left in an emptyDir.
	File(pod *corev1.Pod, volume, path string) ([]byte, error)
	Teardown(ctx context.Context, uid types.UID) error
	Pods() ([]types.UID, error)
}

// Credentials finds what a registry may be shown for an image, the best first;
// *credential.Plugins does. An error comes beside what could be found.
type Credentials interface {
	Credentials(ctx context.Context, image string) ([]runtimeiface.Auth, error)
}

// Config of a Manager.
type Config struct {
	// Runtime that the pods run on; required.
	Runtime Runtime
	// Root is the agent's own directory, absolute; required. The journal, the
	// volumes and the hosts files of pods lie in it.
	Root string
	// LogRoot is the directory of the pods' logs, absolute; "" means Root/logs.
	// A container's log is LogRoot/NAMESPACE_NAME_UID/CONTAINER/RESTART.log. What lost
	// pods left there goes, if LogRoot is below Root; elsewhere only that of pods with
	// a directory below Root, since the rest may be another's.
	LogRoot string
	// NodeName marks what this agent made in the runtime, and stands in
	// spec.nodeName; "" means "nodekit".
	NodeName string
	// NodeIPs are the node's addresses, the primary first; nil leaves hostIP empty.
	NodeIPs []netip.Addr
	// Hosts is what of the node enters /etc/hosts and /etc/resolv.conf; Name
	// is NodeName if "".
	Hosts hostfiles.Node
	// QoS is what of the node decides cgroup values.
	QoS qos.Node
	// Security is the node's part in security contexts.
	Security security.Config
	// Allocatable is what pods may request together, and stands for limits that a
	// container does not set, in the downward API. A resource that it does not
	// name is not limited; nil limits nothing.
	Allocatable corev1.ResourceList
	// NodeLabels are what nodeSelector and node affinity are held against;
	// kubernetes.io/os, arch and hostname (NodeName) are added if not set.
	NodeLabels map[string]string
	// AllowedUnsafeSysctls are sysctls that pods may set beside the kubelet's
	// safe ones, a trailing * standing for any rest; nil allows no others.
	AllowedUnsafeSysctls []string
	// UserIDs are given out to pods with hostUsers false, such as the range that
	// /etc/subuid and /etc/subgid keep for this; the zero value is every ID from
	// 65536 on.
	UserIDs UserIDs
	// Cgroups makes a cgroup for each pod; nil leaves that to the runtime. What
	// memory is in use is not known then, and whether a limit may go below it is
	// for the runtime and the kernel to say.
	Cgroups Cgroups
	// Volumes; nil means volume.New on Root with VolumePlugins, by names such as
	// "nfs". A source is told of the same names, for it to take such pods.
	Volumes       Volumes
	VolumePlugins map[string]volume.Plugin
	// Prober makes probe attempts; nil means probe.NewProber on Runtime.
	Prober probe.Attempter
	// Auth gives a credential for an image, or nil for none, which is tried before
	// those of the pod's imagePullSecrets; may be nil.
	Auth func(pod *corev1.Pod, image string) *runtimeiface.Auth
	// Credentials are asked after the imagePullSecrets; may be nil.
	Credentials Credentials
	// AuthFiles are files such as docker's config.json, looked at for each pull,
	// after all else; nil is none.
	AuthFiles []string
	// Eviction ends pods when the node is short of memory, disk or processes, or
	// a pod takes more disk than its limits; nil leaves it to the kernel, and
	// Why tells of each pod whose limits are not kept.
	Eviction *Eviction
	// MaxParallelPulls bounds the image pulls at one time; 0 means 4.
	MaxParallelPulls int
	// ImageGC is when images are removed that nobody uses; the zero value is the
	// kubelet's policy: from 85 % of the file system on, down to 80 %.
	ImageGC imagegc.Policy
	// KeptDead is how many dead instances of each container are kept, with their
	// logs; 0 means 1.
	KeptDead int
	// LogRotation bounds the containers' logs; the zero value keeps 5 files of
	// 10 MiB.
	LogRotation logs.Policy
	// LogLinks is a directory, absolute, for links to the containers' logs with
	// names such as NAME_NAMESPACE_CONTAINER-ID.log, like /var/log/containers;
	// "" makes none.
	LogLinks string
	// PullStall ends a pull that has made no progress for so long; 0 means 5 min.
	PullStall time.Duration
	// Relist is how often everything is looked at again, should an event be
	// lost; 0 means 10 s.
	Relist time.Duration
	// Records is how many decisions are kept of each pod; 0 means 100.
	Records int
	// OnStatus, if not nil, is called once a pod is looked after, be it one of an
	// agent before, after each change of its status, labels or annotations and at
	// the begin of its end (then it has a deletion timestamp), with a copy, for one
	// pod in order, and a last time after it is gone from Pods.
	// It is called without locks and should be quick: the pod waits for it.
	OnStatus func(pod *corev1.Pod)
	// OnEvent, if not nil, is told what happens to pods in the words of the
	// kubelet's events, ready to be posted: equal ones have one name and a rising
	// Count, and of each pod at most 25 are told at once and one more every 5 min.
	// It is called without locks and should be quick. Manager.Events gives them too.
	OnEvent func(event *corev1.Event)
	// Clock; nil means the real one.
	Clock clock.WithTickerAndDelayedExecution
	// Seed of the random first delays of probes after a restart.
	Seed uint64
	// Logger; the zero value discards.
	Logger logr.Logger
}

// complete checks the config and fills in what is left open.
func (c Config) complete() (Config, error) {
	var errs []error
	if c.Runtime == nil {
		errs = append(errs, errors.New("a Runtime is required"))
	}
	if !filepath.IsAbs(c.Root) {
		errs = append(errs, fmt.Errorf("the Root must be an absolute path: %q", c.Root))
	}
	if c.LogRoot == "" {
		c.LogRoot = filepath.Join(c.Root, "logs")
	} else if !filepath.IsAbs(c.LogRoot) {
		errs = append(errs, fmt.Errorf("the LogRoot must be an absolute path: %q", c.LogRoot))
	}
	if c.LogLinks != "" && !filepath.IsAbs(c.LogLinks) {
		errs = append(errs, fmt.Errorf("LogLinks must be an absolute path: %q", c.LogLinks))
	}
	var err error
	if c.ImageGC, err = c.ImageGC.Complete(); err != nil {
		errs = append(errs, fmt.Errorf("ImageGC: %w", err))
	}
	if c.LogRotation, err = c.LogRotation.Complete(); err != nil {
		errs = append(errs, fmt.Errorf("LogRotation: %w", err))
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"KeptDead", c.KeptDead}, {"MaxParallelPulls", c.MaxParallelPulls}, {"Records", c.Records}, {"Relist", int(c.Relist)}, {"PullStall", int(c.PullStall)}} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative: %d", n.name, n.value))
		}
	}
	users, err := c.UserIDs.complete()
	if c.UserIDs = users; err != nil {
		errs = append(errs, err)
	}
	if c.NodeName == "" {
		c.NodeName = "nodekit"
	}
	c.QoS.HugePageSizes = slices.Clone(c.QoS.HugePageSizes)
	if _, err := c.admission(); err != nil {
		errs = append(errs, err)
	}
	if c.Eviction != nil {
		if _, err := newEvictor(nil, *c.Eviction); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("podlifecycle config: %w", err)
	}
	if c.Hosts.Name == "" {
		c.Hosts.Name = c.NodeName
	}
	if c.MaxParallelPulls == 0 {
		c.MaxParallelPulls = 4
	}
	if c.PullStall == 0 {
		c.PullStall = 5 * time.Minute
	}
	if c.Relist == 0 {
		c.Relist = 10 * time.Second
	}
	if c.Records == 0 {
		c.Records = 100
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Volumes == nil {
		v, err := volume.New(volume.Config{Root: c.Root, Allocatable: c.Allocatable, Plugins: c.VolumePlugins, Logger: c.Logger})
		if err != nil {
			return c, fmt.Errorf("podlifecycle config: %w", err)
		}
		c.Volumes = v
	}
	if c.Prober == nil {
		p, err := probe.NewProber(probe.ProberConfig{Exec: c.Runtime})
		if err != nil {
			return c, fmt.Errorf("podlifecycle config: %w", err)
		}
		c.Prober = p
	}
	return c, nil
}

// admission gives who judges pods.
func (c Config) admission() (*admission.Node, error) {
	labels := maps.Clone(c.NodeLabels)
	if labels[corev1.LabelHostname] == "" {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[corev1.LabelHostname] = c.NodeName
	}
	return admission.New(admission.Config{Labels: labels, Allocatable: c.Allocatable, AllowedUnsafeSysctls: c.AllowedUnsafeSysctls,
		AppArmor: kernelHasAppArmor()})
}

func kernelHasAppArmor() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}
