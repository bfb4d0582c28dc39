package image

import (
	"os"
	"time"
)

// An Image is one pulled image. Its slices and maps are the caller's own.
type Image struct {
	// ID is the digest of the image's configuration, "sha256:..." .
	ID string `json:"id"`
	// RepoTags are the tags that name it here, as "registry/repository:tag",
	// sorted. Empty when another image has taken its tag.
	RepoTags []string `json:"repoTags,omitempty"`
	// RepoDigests are "registry/repository@sha256:..." of the manifests and
	// indexes that it was pulled by, sorted.
	RepoDigests []string `json:"repoDigests,omitempty"`
	// Size in bytes of its unpacked layers on disk. Images that share layers
	// each count them; [Store.Usage] counts them once.
	Size int64 `json:"size"`
	// Config is what the image wants run.
	Config ImageConfig `json:"config"`
	// Layers are diff IDs, the lowest first.
	Layers []string `json:"layers"`
	// OS and Architecture as the configuration states them, such as linux
	// and arm64.
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	// Created is when the image was built, as it claims.
	Created time.Time `json:"created"`
	// Pulled is when it came here, or last got a new name.
	Pulled time.Time `json:"pulled"`
}

// ImageConfig is the part of the OCI image configuration (image-spec v1.1.1,
// config.md) that tells a runtime what to start.
type ImageConfig struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"` // NAME=value
	WorkingDir   string            `json:"workingDir,omitempty"`
	User         string            `json:"user,omitempty"` // user or user:group, names or numbers
	StopSignal   string            `json:"stopSignal,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`      // sorted paths
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // sorted, such as 80/tcp
}

// Platform selects from a multi-platform image.
type Platform struct {
	OS           string // empty is linux
	Architecture string // empty is this program's
	Variant      string // such as v7, or older; empty takes the newest that there is
}

// PullOptions are the details of one pull.
type PullOptions struct {
	// Auth is for the registry that the reference names, not for its mirrors.
	// Unless zero it is the only one tried there.
	Auth Auth
	// Platform to choose; its zero value is this machine's.
	Platform Platform
	// Progress is told how the pull stands: at each change of phase, and at
	// most about ten times a second between. Calls come one after the other,
	// the last one before Pull returns. Nil tells nobody.
	Progress func(Progress)
}

// Phase is what a pull, or one layer of it, is at.
type Phase string

// The phases, in their order. A layer is PhaseWaiting, PhaseDownloading,
// PhaseUnpacking, PhaseDone; a pull is PhaseResolving first, and
// PhaseUnpacking from when no layer waits or downloads any more.
const (
	PhaseResolving   Phase = "resolving"
	PhaseWaiting     Phase = "waiting"
	PhaseDownloading Phase = "downloading"
	PhaseUnpacking   Phase = "unpacking"
	PhaseDone        Phase = "done"
)

// Progress is how a pull stands.
type Progress struct {
	Ref   string
	Phase Phase
	// Done and Total are compressed bytes over all layers; layers that were
	// here before count as done. Total is 0 while resolving.
	Done, Total int64
	// Layers in the order of the manifest, the lowest first.
	Layers []LayerProgress
}

// LayerProgress is how one layer stands.
type LayerProgress struct {
	Digest      string
	Phase       Phase
	Done, Total int64 // compressed bytes
}

// MountOptions are the details of one root file system.
type MountOptions struct {
	// ReadOnly makes a root without a writable layer, as image volumes need.
	ReadOnly bool
	// UserNamespace, an open /proc/PID/ns/user of those who will use the root,
	// makes files keep their owners as seen from within. Needs Linux 5.19 and
	// a Root on a file system that can be mounted with mapped IDs; nil is the
	// node's. The root is passable for its ID 0 and the node's root alone.
	UserNamespace *os.File
}

// Usage is disk space.
type Usage struct {
	Bytes  int64 // allocated on disk
	Inodes int64
}

// Filesystem is how the file system of a Store stands: what the CRI calls
// ImageFsInfo, and its capacity.
type Filesystem struct {
	Path string    // Config.Root
	Time time.Time // of this report
	// Images is what layers, each counted once, and downloads take.
	Images Usage
	// Size and Available bytes of the whole file system. What only root may
	// use is not available, as the kubelet counts.
	Size, Available int64
	// Inodes of the whole file system, 0 where they are not limited.
	Inodes, InodesFree int64
}
