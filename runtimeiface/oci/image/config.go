package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Limits and habits that a zero Config field stands for.
const (
	DefaultMaxParallel   = 4
	DefaultMaxLayerBytes = 32 << 30
	DefaultMaxExpansion  = 200
	DefaultMaxEntries    = 1_000_000
	DefaultMinFreeBytes  = 128 << 20 // 128 MiB
	DefaultMaxRetryAfter = time.Minute

	// expansionFloor is what any layer may unpack to, however small its blob.
	expansionFloor = 64 << 20
	// leftoverLife is how long Open keeps what a killed pull may still use.
	leftoverLife = time.Hour
)

// Config says where a Store lives and what it accepts.
type Config struct {
	// Root is the directory of the store, made if absent. Required, absolute.
	// It needs a file system that can be the upper of an overlay (ext4, xfs,
	// btrfs, tmpfs; not overlay itself).
	Root string

	// PlainHTTP tells whether a registry (host or host:port) may be spoken to
	// without TLS. Nil allows loopback addresses and "localhost" only; those
	// are always allowed.
	PlainHTTP func(registry string) bool
	// Mirrors are other hosts of what a registry has, by the registry's host
	// or host:port as references have it, such as "docker.io". They are tried
	// in order, then the registry itself. Nil is none.
	Mirrors map[string][]Mirror
	// Auth finds credentials for a registry or mirror (host or host:port) when
	// a pull brings none. Nil, and a zero Auth, leave it to AuthFiles.
	Auth func(ctx context.Context, registry string) (Auth, error)
	// AuthFiles are paths of docker's config.json, absolute, read anew by each
	// pull; what an earlier one says is tried first. One that is absent says
	// nothing. See the package comment for what counts in them. Nil is
	// anonymous.
	AuthFiles []string
	// Transport is what requests go through. Nil is a transport like
	// http.DefaultTransport of the store's own.
	Transport http.RoundTripper

	// MaxParallel is how many layers of all pulls together are worked on at
	// once. 0 is DefaultMaxParallel.
	MaxParallel int
	// Attempts is how often a request, or a layer that makes no progress, is
	// tried in all. 0 is 4.
	Attempts int
	// RetryDelay is the wait before the second attempt, doubled for each
	// further one. 0 is 500 ms.
	RetryDelay time.Duration
	// MaxRetryAfter is how long a registry that is busy (429, 503) may make a
	// pull wait by Retry-After. 0 is DefaultMaxRetryAfter.
	MaxRetryAfter time.Duration
	// StallTimeout ends a download that gets no byte for so long; it counts
	// as a failed attempt. 0 is 60 s.
	StallTimeout time.Duration

	// MaxLayerBytes is what one layer may unpack to. 0 is DefaultMaxLayerBytes.
	MaxLayerBytes int64
	// MaxExpansion is how many times the size of its blob a layer may unpack
	// to, beyond a first 64 MiB. 0 is DefaultMaxExpansion.
	MaxExpansion int64
	// MaxEntries is how many files, directories and so on one layer may hold,
	// directories that it only implies included. 0 is DefaultMaxEntries.
	MaxEntries int
	// MinFreeBytes is what a pull leaves free on the file system of Root, for
	// all else that lives there; it fails with ErrDiskFull rather. 0 is
	// DefaultMinFreeBytes, 128 MiB; 1 leaves nothing.
	MinFreeBytes int64

	// Clock tells when images are used and how old that is. Nil is the
	// system's.
	Clock clock.PassiveClock
	// Logger takes a line for each pulled and removed image. Zero discards.
	Logger logr.Logger
}

// A Mirror is another host of what a registry has. Whatever it serves is
// verified by digest; what a tag means, it is trusted with. References, and the
// names of images, stay the registry's.
type Mirror struct {
	// Host or host:port. Required. Its credentials are those that Config.Auth
	// and Config.AuthFiles have for it, never the registry's nor a pull's own.
	Host string
	// Prefix stands before the registry's repository, as caches for several
	// registries want it: "hub" makes library/web hub/library/web. "" is none.
	Prefix string
	// PlainHTTP lets the mirror be spoken to without TLS, credentials
	// included. A loopback address may always.
	PlainHTTP bool
}

// Validate reports all bad fields together, as Open does.
func (c Config) Validate() error {
	_, err := c.withDefaults()
	return err
}

// withDefaults reports all bad fields together.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	if !filepath.IsAbs(c.Root) {
		errs = append(errs, fmt.Errorf("config: Root %q is not an absolute path", c.Root))
	}
	negative := func(name string, bad bool) {
		if bad {
			errs = append(errs, fmt.Errorf("config: %s is negative", name))
		}
	}
	negative("MaxParallel", c.MaxParallel < 0)
	negative("Attempts", c.Attempts < 0)
	negative("RetryDelay", c.RetryDelay < 0)
	negative("MaxRetryAfter", c.MaxRetryAfter < 0)
	negative("StallTimeout", c.StallTimeout < 0)
	negative("MaxLayerBytes", c.MaxLayerBytes < 0)
	negative("MaxExpansion", c.MaxExpansion < 0)
	negative("MaxEntries", c.MaxEntries < 0)
	negative("MinFreeBytes", c.MinFreeBytes < 0)
	for i, file := range c.AuthFiles {
		if !filepath.IsAbs(file) {
			errs = append(errs, fmt.Errorf("config: AuthFiles[%d] %q is not an absolute path", i, file))
		}
	}
	c.AuthFiles = slices.Clone(c.AuthFiles)
	var err error
	c.Mirrors, err = checkMirrors(c.Mirrors)
	errs = append(errs, err)
	c.Root = filepath.Clean(c.Root)
	c.MaxParallel = orDefault(c.MaxParallel, DefaultMaxParallel)
	c.Attempts = orDefault(c.Attempts, 4)
	c.RetryDelay = orDefault(c.RetryDelay, 500*time.Millisecond)
	c.MaxRetryAfter = orDefault(c.MaxRetryAfter, DefaultMaxRetryAfter)
	c.StallTimeout = orDefault(c.StallTimeout, time.Minute)
	c.MaxLayerBytes = orDefault(c.MaxLayerBytes, DefaultMaxLayerBytes)
	c.MaxExpansion = orDefault(c.MaxExpansion, DefaultMaxExpansion)
	c.MaxEntries = orDefault(c.MaxEntries, DefaultMaxEntries)
	c.MinFreeBytes = orDefault(c.MinFreeBytes, DefaultMinFreeBytes)
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return c, errors.Join(errs...)
}

// checkMirrors gives a copy with the keys as references have them.
func checkMirrors(mirrors map[string][]Mirror) (map[string][]Mirror, error) {
	var errs []error
	out := map[string][]Mirror{}
	for _, host := range slices.Sorted(maps.Keys(mirrors)) {
		if !refHost.MatchString(host) {
			errs = append(errs, fmt.Errorf("config: Mirrors: %q is no host or host:port", host))
		}
		for i, m := range mirrors[host] {
			if !refHost.MatchString(m.Host) {
				errs = append(errs, fmt.Errorf("config: Mirrors[%q][%d].Host %q is no host or host:port", host, i, m.Host))
			}
			if m.Prefix != "" && !refPath.MatchString(m.Prefix) {
				errs = append(errs, fmt.Errorf("config: Mirrors[%q][%d].Prefix %q is no path of a repository", host, i, m.Prefix))
			}
		}
		key := canonicalHost(host)
		out[key] = append(out[key], mirrors[host]...)
	}
	return out, errors.Join(errs...)
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
