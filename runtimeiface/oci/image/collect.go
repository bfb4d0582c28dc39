package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// What a zero CollectPolicy field stands for, as in the kubelet (v1.37:
// imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge).
const (
	DefaultHighPercent = 85
	DefaultLowPercent  = 80
	DefaultMinAge      = 2 * time.Minute
)

// CollectPolicy says when Collect removes images, and which.
type CollectPolicy struct {
	// HighPercent is the use of the file system from which on images are
	// collected, 1 to 100. 0 is DefaultHighPercent. Used is what is not
	// available to all, as the kubelet counts.
	HighPercent int
	// LowPercent is the use down to which they are, at most HighPercent. 0 is
	// DefaultLowPercent, or HighPercent if that is lower.
	LowPercent int
	// FreeBytes are freed at least, however little of the file system is used.
	// 0 leaves it to the percentages, math.MaxInt64 is all that may go.
	FreeBytes int64
	// MinAge is for how long after its last use an image stays. 0 is
	// DefaultMinAge.
	MinAge time.Duration
	// Keep are images that stay, by ID, tag or digest. Unknown ones are no
	// error. Nil is none.
	Keep []string
	// DryRun tells what would be done, and does nothing.
	DryRun bool
}

// Kept says why an image stays.
type Kept string

// The reasons, in the order in which they are looked for. An image that is not
// kept has none.
const (
	KeptInUse    Kept = "in use by a container"
	KeptPinned   Kept = "in CollectPolicy.Keep"
	KeptYoung    Kept = "used less than CollectPolicy.MinAge ago"
	KeptUnneeded Kept = "enough space is free"
	KeptShared   Kept = "removing it frees nothing"
)

// ImageUse is what an image takes, and what Collect does with it.
type ImageUse struct {
	ID    string
	Names []string // tags, then digests, sorted
	// Exclusive bytes are of layers that no other image has, Shared bytes of
	// those that others have as well.
	Exclusive, Shared int64
	// LastUsed is when it was last pulled, or mounted or unmounted for a
	// container; the time of the Collection while a container has it.
	LastUsed time.Time
	// Containers have it as root, or as a volume, by ID, sorted. One whose
	// record is unreadable may have any image, and is listed with all.
	Containers []string
	// Kept is "" for an image that was, or would be, collected.
	Kept Kept
	// Frees bytes is what goes with it, in its turn; 0 unless collected.
	Frees int64
	// Collectable is from when on age does not protect it. Zero for one that
	// is in use or pinned.
	Collectable time.Time
}

// Collection is what Collect did, or with DryRun would do.
type Collection struct {
	Filesystem Filesystem // before
	// Goal bytes are to be freed. 0 below HighPercent.
	Goal int64
	// Leftovers bytes are of layers and downloads of pulls that came to no
	// end within MinAge. They go before images do.
	Leftovers int64
	// Freed bytes, leftovers included. It is less than Goal when all that is
	// left must stay.
	Freed int64
	// Images are all images, the longest unused first: those that are
	// collected go in this order.
	Images []ImageUse
}

// Collect removes the images that were unused the longest until enough space
// is free, or tells what it would remove. Images that containers have never go.
// All that go leave the index in one step, before their layers do: a process
// that is killed at any point leaves each of them whole or none of it. When ctx
// ends early, what it did and the error of ctx are given; the next call, or
// the next Open, frees the rest.
func (s *Store) Collect(ctx context.Context, policy CollectPolicy) (Collection, error) {
	policy, err := policy.withDefaults()
	if err != nil {
		return Collection{}, fmt.Errorf("collect images: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return Collection{}, err
	}
	c, err := s.collect(ctx, policy)
	if err != nil {
		return c, fmt.Errorf("collect images: %w", err)
	}
	return c, nil
}

func (s *Store) collect(ctx context.Context, policy CollectPolicy) (Collection, error) {
	fs, err := s.Filesystem()
	if err != nil {
		return Collection{}, err
	}
	c := Collection{Filesystem: fs, Goal: policy.goal(fs)}
	old := fs.Time.Add(-policy.MinAge)
	err = s.eachDownload(func(_ string, size int64, added time.Time) error {
		if !added.After(old) {
			c.Leftovers += size
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	doomed, err := s.decide(&c, policy, old)
	if err != nil || policy.DryRun || c.Goal == 0 {
		return c, err
	}
	c.Freed, err = s.sweepIngest(old)
	freed, sweepErr := s.sweepLayers(ctx, func(l layer) bool { return doomed[l.DiffID] })
	c.Freed += freed
	return c, errors.Join(err, sweepErr, s.settle())
}

// decide fills c, and unless it is a dry run forgets the images that go. It
// gives the layers that go.
func (s *Store) decide(c *Collection, policy CollectPolicy, old time.Time) (map[string]bool, error) {
	s.mu.Lock()
	p := s.planOf(c, policy)
	doomed := map[string]bool{}
	for id, l := range s.layers {
		if p.users[id] == 0 && !p.held[id] && !l.made.After(old) {
			doomed[id] = true
			c.Leftovers += l.Bytes
		}
	}
	gone := p.choose(c)
	for _, u := range gone {
		for _, id := range s.images[u.ID].Layers {
			if p.users[id] == 0 && !p.held[id] {
				doomed[id] = true
			}
		}
	}
	if policy.DryRun || len(gone) == 0 {
		s.mu.Unlock()
		return doomed, nil
	}
	images := maps.Clone(s.images)
	for _, u := range gone {
		delete(images, u.ID)
	}
	err := s.saveFewer(images)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, u := range gone {
		s.forgetUse(u.ID)
		s.cfg.Logger.Info("image collected", "image", u.ID, "bytes", u.Frees, "lastUsed", u.LastUsed)
	}
	return doomed, nil
}

// A plan counts who needs which layer.
type plan struct {
	layers map[string]layer
	images map[string][]string // distinct layers by image
	users  map[string]int      // images that stay, by layer
	held   map[string]bool     // layers that containers and pulls need
}

// planOf looks at all images. Called with mu held.
func (s *Store) planOf(c *Collection, policy CollectPolicy) *plan {
	p := &plan{layers: s.layers, images: map[string][]string{}, users: map[string]int{}, held: map[string]bool{}}
	holders := map[string][]string{} // by image; "" is any
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		r := s.containers[id]
		holders[r.Image] = append(holders[r.Image], id)
		for _, l := range r.Layers {
			p.held[l] = true
		}
	}
	for id := range s.pins {
		p.held[id] = true
	}
	for id, img := range s.images {
		distinct := slices.Clone(img.Layers)
		slices.Sort(distinct)
		p.images[id] = slices.Compact(distinct)
		for _, l := range p.images[id] {
			p.users[l]++
		}
	}
	pinned := map[string]bool{}
	for _, name := range policy.Keep {
		if img, err := s.find(name); err == nil {
			pinned[img.ID] = true
		}
	}
	now := c.Filesystem.Time
	for id, img := range s.images {
		u := ImageUse{ID: id, Names: slices.Concat(img.RepoTags, img.RepoDigests), LastUsed: s.lastUse(img, now)}
		u.Containers = slices.Sorted(slices.Values(slices.Concat(holders[id], holders[""])))
		for _, l := range p.images[id] {
			if p.users[l] == 1 {
				u.Exclusive += s.layers[l].Bytes
			} else {
				u.Shared += s.layers[l].Bytes
			}
		}
		if len(u.Containers) > 0 {
			u.LastUsed = now
		}
		switch at := u.LastUsed.Add(policy.MinAge); {
		case len(u.Containers) > 0:
			u.Kept = KeptInUse
		case pinned[id]:
			u.Kept = KeptPinned
		case at.After(now):
			u.Kept, u.Collectable = KeptYoung, at
		default:
			u.Kept, u.Collectable = KeptUnneeded, at
		}
		c.Images = append(c.Images, u)
	}
	slices.SortFunc(c.Images, func(a, b ImageUse) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return p
}

// choose marks the images that go until c.Goal is reached, and gives them.
func (p *plan) choose(c *Collection) []*ImageUse {
	var gone []*ImageUse
	if c.Goal > 0 {
		c.Freed = c.Leftovers
	}
	for i := range c.Images {
		u := &c.Images[i]
		if u.Kept != KeptUnneeded || c.Freed >= c.Goal {
			continue
		}
		u.Kept = ""
		for _, id := range p.images[u.ID] {
			if p.users[id]--; p.users[id] == 0 && !p.held[id] {
				u.Frees += p.layers[id].Bytes
			}
		}
		c.Freed += u.Frees
		gone = append(gone, u)
	}
	// All layers of some are needed by an image that stays.
	return slices.DeleteFunc(gone, func(u *ImageUse) bool {
		useful := slices.ContainsFunc(p.images[u.ID], func(id string) bool { return p.users[id] == 0 && !p.held[id] })
		if !useful {
			u.Kept = KeptShared
			for _, id := range p.images[u.ID] {
				p.users[id]++
			}
		}
		return !useful
	})
}

func (c CollectPolicy) withDefaults() (CollectPolicy, error) {
	var errs []error
	bad := func(name string, is bool, why string) {
		if is {
			errs = append(errs, fmt.Errorf("policy: %s %s", name, why))
		}
	}
	c.HighPercent = cmp.Or(c.HighPercent, DefaultHighPercent)
	c.LowPercent = cmp.Or(c.LowPercent, min(DefaultLowPercent, c.HighPercent))
	c.MinAge = cmp.Or(c.MinAge, DefaultMinAge)
	bad("HighPercent", c.HighPercent < 0 || c.HighPercent > 100, "is not within 1 and 100")
	bad("LowPercent", c.LowPercent < 0 || c.LowPercent > c.HighPercent, "is not within 1 and HighPercent")
	bad("FreeBytes", c.FreeBytes < 0, "is negative")
	bad("MinAge", c.MinAge < 0, "is negative")
	for i, name := range c.Keep {
		if isImageID(name) {
			continue
		}
		if _, err := parseRef(name); err != nil {
			errs = append(errs, fmt.Errorf("policy: Keep[%d]: %w", i, err))
		}
	}
	return c, errors.Join(errs...)
}

// goal is how many bytes are to be freed.
func (c CollectPolicy) goal(fs Filesystem) int64 {
	goal := c.FreeBytes
	if fs.Size > 0 && 100-fs.Available*100/fs.Size >= int64(c.HighPercent) {
		goal = max(goal, fs.Size*int64(100-c.LowPercent)/100-fs.Available)
	}
	return goal
}
