package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/credential"
	"github.com/nodekit/nodekit/runtimeiface"
)

// progressEvery bounds how often a pull's progress makes a new status.
const progressEvery = time.Second

// wanted is an image that a container needs, and the field that names it.
type wanted struct {
	ref, field string
	policy     corev1.PullPolicy
	volume     string // the image volume, or "" for the container's own
}

// imagesOf are the images that a container needs, its own first, then those of the
// image volumes that it mounts.
func imagesOf(pod *corev1.Pod, c *corev1.Container, ref string) []wanted {
	list := []wanted{{ref: ref, field: imageField(pod, c), policy: PullPolicy(c)}}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		mounts := func(m corev1.VolumeMount) bool { return m.Name == v.Name }
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, mounts) {
			continue
		}
		list = append(list, wanted{ref: v.Image.Reference, field: fmt.Sprintf("spec.volumes[%d].image.reference", i),
			policy: pullPolicy(v.Image.PullPolicy, v.Image.Reference), volume: v.Name})
	}
	return list
}

// pull brings a container's image and those of its volumes, as their policies say.
func (w *worker) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container, a Action) (func(), error) {
	old := w.m.config.Clock.Now()
	state := imageState{Image: Image{Ref: a.Image, Attempt: a.Attempt}, volumes: map[string]string{}}
	for _, want := range imagesOf(pod, c, a.Image) {
		img, reason, err := w.getImage(ctx, pod, c, want)
		if err == nil {
			if want.volume == "" {
				state.ID, state.user = img.ID, img.User
			} else {
				state.volumes[want.volume] = img.ID
			}
			continue
		}
		if ctx.Err() != nil {
			return nil, errCancelled
		}
		err = fmt.Errorf("%s%s: %w", want.field, inFile(pod), err)
		state.Reason, state.Message, state.Failed, state.At = reason, err.Error(), want.ref, old
		return func() { w.notPulled(a.Container, state) }, fmt.Errorf("%s: %w", reason, err)
	}
	return func() { w.images[a.Container] = state }, nil
}

// notPulled keeps what went wrong, and when to try again.
func (w *worker) notPulled(container string, state imageState) {
	now := w.m.config.Clock.Now()
	if before := w.images[container]; before.Ref == state.Ref {
		state.failures = before.failures
	}
	state.failures++
	state.At = now
	switch state.Reason {
	case "InvalidImageName":
	case "ErrImageNeverPull": // somebody else will bring it
		state.RetryAt = now.Add(backoffFirst)
	default:
		state.RetryAt = now.Add(PullDelay(state.failures))
	}
	w.images[container] = state
}

// imageField is the path of a container's image in its pod.
func imageField(pod *corev1.Pod, c *corev1.Container) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return fmt.Sprintf("spec.initContainers[%d].image", i)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == c.Name {
			return fmt.Sprintf("spec.ephemeralContainers[%d].image", i)
		}
	}
	at := slices.IndexFunc(pod.Spec.Containers, func(other corev1.Container) bool { return other.Name == c.Name })
	return fmt.Sprintf("spec.containers[%d].image", at)
}

func (w *worker) getImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, want wanted) (runtimeiface.Image, string, error) {
	rt, ref := w.m.config.Runtime, want.ref
	if want.policy != corev1.PullAlways {
		lookCtx, cancel := context.WithTimeout(ctx, observeTimeout)
		img, err := rt.ImageStatus(lookCtx, ref)
		cancel()
		switch {
		case err == nil && w.mayUse(pod, ref, img.ID):
			return img, "", nil
		case err == nil && want.policy == corev1.PullNever:
			return img, "ErrImageNeverPull", neverMay(ref)
		case err == nil: // the registry says whether it may
		case errors.Is(err, runtimeiface.ErrInvalidImageName):
			return img, "InvalidImageName", invalidName(ref, err)
		case !errors.Is(err, runtimeiface.ErrNotFound):
			return img, "ErrImagePull", fmt.Errorf("look for image %s: %w", ref, err)
		case want.policy == corev1.PullNever:
			return img, "ErrImageNeverPull", neverPull(ref)
		}
	}
	if err := ctx.Err(); err != nil { // an agent that ends begins no pull
		return runtimeiface.Image{}, "ErrImagePull", err
	}
	select {
	case w.m.pulls <- struct{}{}:
		defer func() { <-w.m.pulls }()
	case <-ctx.Done():
		return runtimeiface.Image{}, "ErrImagePull", ctx.Err()
	}
	img, err := w.pullImage(ctx, pod, c, ref)
	switch {
	case err == nil:
		w.m.images.pulled(img.ID, w.m.config.Clock.Now())
		return img, "", nil
	case errors.Is(err, runtimeiface.ErrInvalidImageName):
		return img, "InvalidImageName", invalidName(ref, err)
	}
	return img, "ErrImagePull", fmt.Errorf("pull image %s: %w", ref, err)
}

// pullImage pulls with each credential that fits, until one is taken.
func (w *worker) pullImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ref string) (runtimeiface.Image, error) {
	keys, lacking := w.keys(ctx, pod, ref)
	var errs []error
	for _, k := range keys {
		img, err := w.pullAs(ctx, c, ref, k)
		if err == nil {
			return img, nil
		}
		if !slices.ContainsFunc(errs, func(other error) bool { return other.Error() == err.Error() }) {
			errs = append(errs, err)
		}
		// A registry may hide what it does not show to everybody.
		if !errors.Is(err, runtimeiface.ErrUnauthorized) && !errors.Is(err, runtimeiface.ErrNotFound) {
			break
		}
	}
	if lacking != nil {
		errs = append(errs, fmt.Errorf("credentials: %w", lacking))
	}
	if len(errs) == 1 {
		return runtimeiface.Image{}, errs[0]
	}
	return runtimeiface.Image{}, errors.Join(errs...)
}

// pullAs pulls with one credential, and notes whose it was.
func (w *worker) pullAs(ctx context.Context, c *corev1.Container, ref string, k key) (runtimeiface.Image, error) {
	if k.secret != nil {
		if err := w.m.rights.begin(w.m.journal, ref); err != nil {
			return runtimeiface.Image{}, fmt.Errorf("journal: %w", err)
		}
	}
	img, err := w.pullWith(ctx, c, runtimeiface.ImageSpec{Ref: ref, Auth: k.auth})
	if err != nil {
		img = runtimeiface.Image{}
	}
	w.m.wrote(w.m.rights.end(w.m.journal, ref, img.ID, k, w.m.config.Clock.Now()))
	return img, err
}

// mayUse tells whether the pod may use an image that is there without asking its
// registry.
func (w *worker) mayUse(pod *corev1.Pod, ref, id string) bool {
	secrets, _ := w.pullSecrets(pod)
	keys, _ := ownKeys(secrets, ref)
	return w.m.rights.mayUse(w.m.journal, ref, id, keys)
}

// pullSecrets are the pod's imagePullSecrets; those that are not there are the error.
func (w *worker) pullSecrets(pod *corev1.Pod) ([]*corev1.Secret, error) {
	set := w.m.objects()
	var secrets []*corev1.Secret
	var errs []error
	for i, name := range pod.Spec.ImagePullSecrets {
		if secret := set.Secret(pod.Namespace, name.Name); secret != nil {
			secrets = append(secrets, secret)
		} else {
			errs = append(errs, fmt.Errorf("spec.imagePullSecrets[%d].name: secret %s/%s is not in the set", i, pod.Namespace, name.Name))
		}
	}
	return secrets, errors.Join(errs...)
}

// pullWith pulls once. What makes no progress for too long is given up.
func (w *worker) pullWith(ctx context.Context, c *corev1.Container, spec runtimeiface.ImageSpec) (runtimeiface.Image, error) {
	pullCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := w.m.config.Clock.AfterFunc(w.m.config.PullStall, func() { cancel(errStalled) })
	defer stalled.Stop()
	note := w.progressOf(c.Name)
	img, err := w.m.config.Runtime.PullImage(pullCtx, spec, func(p runtimeiface.PullProgress) {
		stalled.Reset(w.m.config.PullStall)
		note(p)
	})
	if err != nil && ctx.Err() == nil && pullCtx.Err() != nil {
		err = context.Cause(pullCtx)
	}
	return img, err
}

// keys gives what to show to the registry of ref, the best first, never nothing.
// What kept some from being found is the error.
func (w *worker) keys(ctx context.Context, pod *corev1.Pod, ref string) ([]key, error) {
	cfg := &w.m.config
	var found []key
	add := func(k key) {
		if !slices.ContainsFunc(found, func(other key) bool { return *other.auth == *k.auth }) {
			found = append(found, k)
		}
	}
	if cfg.Auth != nil {
		if auth := cfg.Auth(pod, ref); auth != nil {
			add(key{auth: auth, chosen: true})
		}
	}
	secrets, lacking := w.pullSecrets(pod)
	own, bad := ownKeys(secrets, ref)
	for _, k := range own {
		add(k)
	}
	var given []runtimeiface.Auth
	var failed error
	if cfg.Credentials != nil {
		given, failed = cfg.Credentials.Credentials(ctx, ref)
	}
	filed, unread := credential.FromFiles(cfg.AuthFiles, ref)
	for _, auth := range slices.Concat(given, filed) {
		add(key{auth: &auth})
	}
	err := errors.Join(lacking, bad, failed, unread)
	if err != nil {
		w.log.Info("not all credentials can be used", "image", ref, "error", err.Error())
	}
	if len(found) == 0 {
		found = []key{{}}
	}
	return found, err
}

// neverPull is the kubelet's text about an image that nobody has brought.
type neverPull string

func (e neverPull) Error() string {
	return fmt.Sprintf("Container image %q is not present with pull policy of Never", string(e))
}

// neverMay is that about one that is there and not for this pod.
type neverMay string

func (e neverMay) Error() string {
	return fmt.Sprintf("Container image %q is present with pull policy of Never, and the pod has none of the credentials that it was pulled with", string(e))
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
