package nodeusage

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"k8s.io/utils/clock"
)

// Config of a Node.
type Config struct {
	// NodeFS is a directory on the file system of volumes and logs, absolute;
	// required.
	NodeFS string
	// ImageFS is one on that of images and writable layers; "" is NodeFS.
	ImageFS string
	// Proc is where procfs is mounted; "" means /proc.
	Proc string
	// MemoryCgroup and PIDsCgroup are the roots of the hierarchies with these
	// controllers; "" finds them in Proc/self/mountinfo, v1 before v2.
	MemoryCgroup, PIDsCgroup string
	// Entries is how many directory entries Disk reads a second; 0 means 20,000.
	Entries int
	// Clock; nil means the real one.
	Clock clock.Clock
}

// Node reads the node. It may be used concurrently; directories are measured
// one after another.
type Node struct {
	config Config
	walk   sync.Mutex
}

// New checks config; it reads nothing.
func New(config Config) (*Node, error) {
	var errs []error
	if !filepath.IsAbs(config.NodeFS) {
		errs = append(errs, fmt.Errorf("the NodeFS must be an absolute path: %q", config.NodeFS))
	}
	if config.ImageFS == "" {
		config.ImageFS = config.NodeFS
	}
	if config.Proc == "" {
		config.Proc = "/proc"
	}
	for _, path := range []struct{ name, value string }{{"ImageFS", config.ImageFS}, {"Proc", config.Proc},
		{"MemoryCgroup", config.MemoryCgroup}, {"PIDsCgroup", config.PIDsCgroup}} {
		if path.value != "" && !filepath.IsAbs(path.value) && path.value != config.NodeFS {
			errs = append(errs, fmt.Errorf("the %s must be an absolute path: %q", path.name, path.value))
		}
	}
	if config.Entries < 0 {
		errs = append(errs, fmt.Errorf("the number of Entries must not be negative: %d", config.Entries))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("nodeusage config: %w", err)
	}
	if config.Entries == 0 {
		config.Entries = 20_000
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Node{config: config}, nil
}
