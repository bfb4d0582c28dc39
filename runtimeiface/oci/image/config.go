package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
)

// Limits and habits that a zero Config field stands for.
const (
	DefaultMaxParallel   = 4
	DefaultMaxLayerBytes = 32 << 30
	DefaultMaxExpansion  = 200
	DefaultMaxEntries    = 1_000_000
	DefaultMinFreeBytes  = 128 << 20

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
	// Auth finds credentials for a registry (host or host:port) when a pull
	// brings none. Nil is anonymous.
	Auth func(ctx context.Context, registry string) (Auth, error)
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
	// MinFreeBytes is what a pull leaves free on the disk of Root. 0 is
	// DefaultMinFreeBytes.
	MinFreeBytes int64

	// Logger takes a line for each pulled and removed image. Zero discards.
	Logger logr.Logger
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
	negative("StallTimeout", c.StallTimeout < 0)
	negative("MaxLayerBytes", c.MaxLayerBytes < 0)
	negative("MaxExpansion", c.MaxExpansion < 0)
	negative("MaxEntries", c.MaxEntries < 0)
	negative("MinFreeBytes", c.MinFreeBytes < 0)
	c.Root = filepath.Clean(c.Root)
	c.MaxParallel = orDefault(c.MaxParallel, DefaultMaxParallel)
	c.Attempts = orDefault(c.Attempts, 4)
	c.RetryDelay = orDefault(c.RetryDelay, 500*time.Millisecond)
	c.StallTimeout = orDefault(c.StallTimeout, time.Minute)
	c.MaxLayerBytes = orDefault(c.MaxLayerBytes, DefaultMaxLayerBytes)
	c.MaxExpansion = orDefault(c.MaxExpansion, DefaultMaxExpansion)
	c.MaxEntries = orDefault(c.MaxEntries, DefaultMaxEntries)
	c.MinFreeBytes = orDefault(c.MinFreeBytes, DefaultMinFreeBytes)
	return c, errors.Join(errs...)
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
