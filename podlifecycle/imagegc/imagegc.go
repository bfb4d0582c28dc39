package imagegc

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// What a zero Policy field stands for, as in the kubelet
// (imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge).
const (
	DefaultHighPercent = 85
	DefaultLowPercent  = 80
	DefaultMinAge      = 2 * time.Minute
)

// Policy says when images are removed, and which may be.
type Policy struct {
	// HighPercent is the use of the file system from which on images are removed,
	// 1 to 100; 0 means DefaultHighPercent, 100 never does it for room.
	HighPercent int
	// LowPercent is the use down to which they are, at most HighPercent; 0 means
	// DefaultLowPercent, or HighPercent if that is lower.
	LowPercent int
	// MinAge is how long an image stays at least, from when it was first seen; 0
	// means DefaultMinAge.
	MinAge time.Duration
	// MaxAge is how long an image may stay unused; 0 means for ever.
	MaxAge time.Duration
}

// Complete fills in the defaults, and tells of all bad fields together.
func (p Policy) Complete() (Policy, error) {
	p.HighPercent = cmp.Or(p.HighPercent, DefaultHighPercent)
	p.LowPercent = cmp.Or(p.LowPercent, min(DefaultLowPercent, p.HighPercent))
	p.MinAge = cmp.Or(p.MinAge, DefaultMinAge)
	var errs []error
	if p.HighPercent < 0 || p.HighPercent > 100 {
		errs = append(errs, fmt.Errorf("HighPercent is not within 1 and 100: %d", p.HighPercent))
	}
	if p.LowPercent < 0 || p.LowPercent > p.HighPercent {
		errs = append(errs, fmt.Errorf("LowPercent is not within 1 and HighPercent: %d", p.LowPercent))
	}
	if p.MinAge < 0 {
		errs = append(errs, fmt.Errorf("MinAge must not be negative: %v", p.MinAge))
	}
	if p.MaxAge < 0 || p.MaxAge > 0 && p.MaxAge < p.MinAge {
		errs = append(errs, fmt.Errorf("MaxAge must be 0 or at least MinAge: %v", p.MaxAge))
	}
	return p, errors.Join(errs...)
}

// Use is what is known of an image's past.
type Use struct {
	// FirstSeen is when it came; zero: it was there when the watching began.
	FirstSeen time.Time
	// LastUsed is when somebody was last seen to have it; zero is never.
	LastUsed time.Time
}

// Node is what a decision rests on. Decide changes nothing in it.
type Node struct {
	// Images on the node, in any order.
	Images []runtimeiface.Image
	// Filesystem of the images; without CapacityBytes nothing is removed for room.
	Filesystem runtimeiface.Filesystem
	// Holders tells by image ID who has the image or wants it, in words.
	Holders map[string]string
	// Uses by image ID.
	Uses map[string]Use
	// Since is from when on uses were watched: MaxAge counts from then at the
	// earliest.
	Since time.Time
	// Now is the time of the decision.
	Now time.Time
	// Begun: images are being removed already, so that LowPercent counts.
	Begun bool
	// All removes everything that may go, whatever room there is.
	All bool
}

// Plan is what Decide gives.
type Plan struct {
	// Goal bytes are to become free; 0 if there is room enough, or nobody knows.
	Goal int64
	// Verdicts on all images, in the order in which those to be removed go: the
	// longest unused first.
	Verdicts []Verdict
}

// Verdict is what becomes of one image.
type Verdict struct {
	Image  runtimeiface.Image
	Remove bool
	// Reason, for people.
	Reason string
}

// Decide tells of each image whether it is to be removed now, and why. Policy has
// been completed. It is pure: equal arguments give equal plans.
func Decide(policy Policy, node Node) Plan {
	plan := Plan{Goal: goal(policy, node)}
	images := slices.Clone(node.Images)
	slices.SortStableFunc(images, func(a, b runtimeiface.Image) int {
		x, y := node.Uses[a.ID], node.Uses[b.ID]
		return cmp.Or(x.LastUsed.Compare(y.LastUsed), x.FirstSeen.Compare(y.FirstSeen), cmp.Compare(a.ID, b.ID))
	})
	left := plan.Goal
	for _, image := range images {
		v := Verdict{Image: image, Reason: kept(policy, node, image)}
		if v.Reason == "" {
			v.Remove, v.Reason = verdict(policy, node, image, left)
		}
		if v.Remove {
			left = max(0, left-image.Size)
		}
		plan.Verdicts = append(plan.Verdicts, v)
	}
	return plan
}

// goal is how many bytes are too few. What only root may use is not available, as
// the kubelet counts.
func goal(policy Policy, node Node) int64 {
	fs := node.Filesystem
	if fs.CapacityBytes <= 0 || policy.HighPercent == 100 {
		return 0
	}
	available := min(fs.AvailableBytes, fs.CapacityBytes)
	used := 100 - int(available*100/fs.CapacityBytes)
	if used < policy.HighPercent && !node.Begun {
		return 0
	}
	return max(0, fs.CapacityBytes*int64(100-policy.LowPercent)/100-available)
}

// kept tells why an image must not go, or "".
func kept(policy Policy, node Node, image runtimeiface.Image) string {
	use := node.Uses[image.ID]
	switch holder := node.Holders[image.ID]; {
	case image.Pinned:
		return "the runtime pins it"
	case holder != "":
		return "in use by " + holder
	case !use.FirstSeen.IsZero() && node.Now.Sub(use.FirstSeen) < policy.MinAge:
		return fmt.Sprintf("it came less than %v ago", policy.MinAge)
	}
	return ""
}

func verdict(policy Policy, node Node, image runtimeiface.Image, left int64) (remove bool, reason string) {
	use := node.Uses[image.ID]
	latest := use.LastUsed
	for _, t := range []time.Time{use.FirstSeen, node.Since} {
		if t.After(latest) {
			latest = t
		}
	}
	switch {
	case node.All:
		return true, "nobody uses it, and all the room that can be had is asked for"
	case policy.MaxAge > 0 && node.Now.Sub(latest) > policy.MaxAge:
		return true, fmt.Sprintf("nobody has used it for more than %v", policy.MaxAge)
	case left > 0:
		fs := node.Filesystem
		return true, fmt.Sprintf("nobody uses it, and of the file system of images %d %% are used, %d bytes more than %d %%",
			100-fs.AvailableBytes*100/fs.CapacityBytes, goal(policy, node), policy.LowPercent)
	}
	return false, "there is room enough"
}
