package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// progressEvery bounds how often a pull's progress makes a new status.
const progressEvery = time.Second

// pull brings a container's image, as its policy says.
func (w *worker) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container, a Action) (func(), error) {
	old := w.m.config.Clock.Now()
	img, reason, err := w.getImage(ctx, pod, c, a.Image)
	state := imageState{Image: Image{Ref: a.Image, Attempt: a.Attempt, ID: img.ID}, user: img.User}
	if err != nil {
		if ctx.Err() != nil {
			return nil, errCancelled
		}
		err = fmt.Errorf("%s%s: %w", imageField(pod, c), inFile(pod), err)
		state.Reason, state.Message, state.At = reason, err.Error(), old
		return func() {
			now := w.m.config.Clock.Now()
			if before := w.images[a.Container]; before.Ref == a.Image {
				state.failures = before.failures
			}
			state.failures++
			state.At = now
			if reason != "InvalidImageName" {
				state.RetryAt = now.Add(PullDelay(state.failures))
			}
			w.images[a.Container] = state
		}, fmt.Errorf("%s: %w", reason, err)
	}
	return func() { w.images[a.Container] = state }, nil
}

// imageField is the path of a container's image in its pod.
func imageField(pod *corev1.Pod, c *corev1.Container) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return fmt.Sprintf("spec.initContainers[%d].image", i)
		}
	}
	at := slices.IndexFunc(pod.Spec.Containers, func(other corev1.Container) bool { return other.Name == c.Name })
	return fmt.Sprintf("spec.containers[%d].image", at)
}

func (w *worker) getImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ref string) (runtimeiface.Image, string, error) {
	rt, policy := w.m.config.Runtime, PullPolicy(c)
	if policy != corev1.PullAlways {
		lookCtx, cancel := context.WithTimeout(ctx, observeTimeout)
		img, err := rt.ImageStatus(lookCtx, ref)
		cancel()
		switch {
		case err == nil:
			return img, "", nil
		case errors.Is(err, runtimeiface.ErrInvalidImageName):
			return img, "InvalidImageName", invalidName(ref, err)
		case !errors.Is(err, runtimeiface.ErrNotFound):
			return img, "ErrImagePull", fmt.Errorf("look for image %s: %w", ref, err)
		case policy == corev1.PullNever:
			return img, "ErrImageNeverPull", fmt.Errorf("container image %q is not present with pull policy of Never", ref)
		}
	}
	select {
	case w.m.pulls <- struct{}{}:
		defer func() { <-w.m.pulls }()
	case <-ctx.Done():
		return runtimeiface.Image{}, "ErrImagePull", ctx.Err()
	}
	spec := runtimeiface.ImageSpec{Ref: ref}
	if w.m.config.Auth != nil {
		spec.Auth = w.m.config.Auth(pod, ref)
	}
	pullCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := w.m.config.Clock.AfterFunc(w.m.config.PullStall, func() { cancel(errStalled) })
	defer stalled.Stop()
	note := w.progressOf(c.Name)
	img, err := rt.PullImage(pullCtx, spec, func(p runtimeiface.PullProgress) {
		stalled.Reset(w.m.config.PullStall)
		note(p)
	})
	if err != nil && ctx.Err() == nil && pullCtx.Err() != nil {
		err = context.Cause(pullCtx)
	}
	switch {
	case err == nil:
		w.m.images.pulled(img.ID, w.m.config.Clock.Now())
		return img, "", nil
	case errors.Is(err, runtimeiface.ErrInvalidImageName):
		return img, "InvalidImageName", invalidName(ref, err)
	}
	return img, "ErrImagePull", fmt.Errorf("pull image %s: %w", ref, err)
}

var errStalled = errors.New("no progress")

func invalidName(ref string, err error) error {
	return fmt.Errorf("couldn't parse image name %q: %w", ref, err)
}

// progressOf notes how a pull gets on, and has the status say so now and then.
func (w *worker) progressOf(container string) func(runtimeiface.PullProgress) {
	var last time.Time
	return func(p runtimeiface.PullProgress) {
		text := p.Phase
		if p.Total > 0 {
			text = fmt.Sprintf("%s, %.1f of %.1f MiB, %d of %d layers", p.Phase, float64(p.Done)/(1<<20), float64(p.Total)/(1<<20), p.LayersDone, p.Layers)
		}
		w.mu.Lock()
		w.progress[container] = text
		w.mu.Unlock()
		if now := w.m.config.Clock.Now(); now.Sub(last) >= progressEvery {
			last = now
			w.wake()
		}
	}
}
