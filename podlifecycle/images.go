package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
)

const (
	// collectEvery is how often the policy of images is applied, Kubernetes v1.37.0
	// pkg/kubelet ImageGCPeriod.
	collectEvery  = 5 * time.Minute
	removeTimeout = 2 * time.Minute
)

// errWaiting: what no pod wants cannot be told yet.
var errWaiting = errors.New("not every source of pods has spoken")

// imageWatch is what is known of the images' past.
type imageWatch struct {
	mu    sync.Mutex
	since time.Time
	uses  map[string]imagegc.Use
}

// collectImages applies Config.ImageGC as long as ctx lasts.
func (m *Manager) collectImages(ctx context.Context) {
	ticker := m.config.Clock.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		if _, err := m.removeImages(ctx, false); err != nil && ctx.Err() == nil && !errors.Is(err, errWaiting) {
			m.config.Logger.Error(err, "remove unused images")
		}
		if err := m.forgetImages(ctx); err != nil && ctx.Err() == nil {
			m.config.Logger.Error(err, "forget images that are gone")
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
	}
}

// forgetImages forgets who pulled images that are gone.
func (m *Manager) forgetImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	begun := m.config.Clock.Now()
	images, err := m.config.Runtime.ListImages(ctx)
	if err != nil {
		return err
	}
	return m.rights.prune(m.journal, images, begun)
}

// Reclaim removes at once every image that no container has and no pod wants, but
// those that are pinned or younger than Config.ImageGC.MinAge, and gives the bytes
// that this freed. It is for whoever sees that the node is short of room. Errors of
// single images are joined; the others are gone. It fails before every source of
// pods has spoken.
func (m *Manager) Reclaim(ctx context.Context) (freed int64, err error) {
	return m.removeImages(ctx, true)
}

// removeImages decides and removes, and looks again at what that has freed, until
// there is room enough or nothing more may go.
func (m *Manager) removeImages(ctx context.Context, all bool) (freed int64, err error) {
	if err := ctx.Err(); err != nil { // select would draw lots
		return 0, err
	}
	select {
	case m.collector <- struct{}{}:
		defer func() { <-m.collector }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	var errs []error
	var sizes, before, goal int64
	for begun := false; ; begun = true {
		node, err := m.lookAtImages(ctx)
		if err != nil {
			return freed, errors.Join(append(errs, fmt.Errorf("look at images: %w", err))...)
		}
		if !begun {
			before = node.Filesystem.AvailableBytes
		}
		node.Begun, node.All = begun, all
		plan := imagegc.Decide(m.config.ImageGC, node)
		freed, goal = sizes, plan.Goal
		if node.Filesystem.CapacityBytes > 0 {
			freed = max(0, node.Filesystem.AvailableBytes-before)
		}
		removed := false
		for _, v := range plan.Verdicts {
			if !v.Remove {
				continue
			}
			switch err := m.removeImage(ctx, v); {
			case errors.Is(err, runtimeiface.ErrInUse): // by a volume, which no list tells
				m.images.used(v.Image.ID, node.Now)
			case err != nil:
				errs = append(errs, err)
			default:
				removed = true
				sizes += v.Image.Size
			}
		}
		if !removed || ctx.Err() != nil {
			break
		}
	}
	if goal > 0 {
		m.note(Record{Rule: RuleImageGC, Action: "none", Reason: "no more images may be removed, and the file system of images is still too full"})
	}
	return freed, errors.Join(errs...)
}

func (m *Manager) removeImage(ctx context.Context, v imagegc.Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	name := v.Image.ID
	if names := slices.Concat(v.Image.Tags, v.Image.Digests); len(names) > 0 {
		name = names[0]
	}
	began := m.config.Clock.Now()
	err := m.config.Runtime.RemoveImage(ctx, v.Image.ID)
	rec := Record{Rule: RuleImageGC, Input: v.Image.ID, Action: "remove image " + name, Reason: v.Reason, Result: "done",
		Took: m.config.Clock.Now().Sub(began)}
	switch {
	case err == nil:
		m.config.Logger.Info("image removed", "image", name, "reason", v.Reason)
	case errors.Is(err, runtimeiface.ErrInUse):
		rec.Result = "kept: it is in use"
	default:
		rec.Result, rec.Error = "failed", err.Error()
	}
	if err != nil {
		err = fmt.Errorf("remove image %s: %w", name, err)
	}
	m.note(rec)
	return err
}

// lookAtImages gathers what a decision about images rests on, and remembers who
// was using which.
func (m *Manager) lookAtImages(ctx context.Context) (imagegc.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	set := m.set.Load()
	if set == nil || len(set.Waiting) > 0 {
		return imagegc.Node{}, errWaiting
	}
	rt := m.config.Runtime
	fs, err := rt.ImageFilesystem(ctx)
	if err != nil {
		return imagegc.Node{}, err
	}
	images, err := rt.ListImages(ctx)
	if err != nil {
		return imagegc.Node{}, err
	}
	holders, err := m.holders(ctx, set, images)
	if err != nil {
		return imagegc.Node{}, err
	}
	node := imagegc.Node{Images: images, Filesystem: fs, Holders: holders, Now: m.config.Clock.Now(), Uses: map[string]imagegc.Use{}}
	w := &m.images
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, image := range images {
		use, known := w.uses[image.ID]
		if !known && !w.since.IsZero() {
			use.FirstSeen = node.Now
		}
		if holders[image.ID] != "" {
			use.LastUsed = node.Now
		}
		node.Uses[image.ID] = use
	}
	if w.since.IsZero() {
		w.since = node.Now
	}
	w.uses, node.Since = map[string]imagegc.Use{}, w.since
	for id, use := range node.Uses {
		w.uses[id] = use
	}
	return node, nil
}

// holders tells who has or wants which image, by ID: every container of the
// runtime, dead or of others, and every pod that may still start one.
func (m *Manager) holders(ctx context.Context, set *source.Set, images []runtimeiface.Image) (map[string]string, error) {
	containers, err := m.config.Runtime.ListContainers(ctx, runtimeiface.ContainerFilter{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	holders, byName := map[string]string{}, map[string]string{}
	for _, image := range images {
		byName[image.ID] = image.ID
		for _, name := range slices.Concat(image.Tags, image.Digests) {
			byName[name] = image.ID
		}
	}
	wanted, over := map[string]string{}, map[types.UID]bool{}
	for _, w := range m.list() {
		w.mu.Lock()
		pod, ended, leaving := w.pod, terminal(w.status.Phase), w.ending != nil && w.ending.Forget
		w.mu.Unlock()
		over[w.uid] = ended && !leaving
		if !ended && !leaving {
			want(wanted, pod) // also one whose manifest cannot be read now
		}
	}
	for _, pod := range set.Pods {
		if !over[pod.UID] {
			want(wanted, pod)
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(wanted)) {
		pod := wanted[ref]
		id, there := byName[ref]
		if !there {
			image, err := m.config.Runtime.ImageStatus(ctx, ref)
			if errors.Is(err, runtimeiface.ErrNotFound) || errors.Is(err, runtimeiface.ErrInvalidImageName) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("look for image %s: %w", ref, err)
			}
			id = image.ID
		}
		holders[id] = "pod " + pod
	}
	for _, c := range containers {
		for _, name := range []string{c.ImageID, c.Image} {
			if id, there := byName[name]; there {
				holders[id] = fmt.Sprintf("container %s (%.12s)", c.Name, c.ID)
			}
		}
	}
	return holders, nil
}

func want(wanted map[string]string, pod *corev1.Pod) {
	for _, ref := range imageRefs(pod) {
		wanted[ref] = pod.Namespace + "/" + pod.Name
	}
}

// imageRefs are the images that a pod names.
func imageRefs(pod *corev1.Pod) []string {
	var refs []string
	for _, c := range everyContainer(pod) {
		refs = append(refs, c.Image)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			refs = append(refs, v.Image.Reference)
		}
	}
	return refs
}

// pulled notes that an image has just come.
func (w *imageWatch) pulled(id string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.uses[id]; !known {
		w.uses[id] = imagegc.Use{FirstSeen: now}
	}
}

// used notes that somebody has an image.
func (w *imageWatch) used(id string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	use := w.uses[id]
	use.LastUsed = now
	w.uses[id] = use
}
