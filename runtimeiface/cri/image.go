package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// PullImage has the runtime pull. The CRI tells no progress: there is one call
// for "resolving" and one for "done".
func (r *Runtime) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, progress func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	if err := ctx.Err(); err != nil {
		return runtimeiface.Image{}, err
	}
	if err := checkRef(spec.Ref); err != nil {
		return runtimeiface.Image{}, fmt.Errorf("pull %q: %w", spec.Ref, err)
	}
	if progress == nil {
		progress = func(runtimeiface.PullProgress) {}
	}
	progress(runtimeiface.PullProgress{Ref: spec.Ref, Phase: "resolving"})
	if err := ctx.Err(); err != nil {
		return runtimeiface.Image{}, fmt.Errorf("pull %s: %w", spec.Ref, err)
	}
	ref := withTag(spec.Ref)
	request := &api.PullImageRequest{Image: &api.ImageSpec{Image: ref, UserSpecifiedImage: spec.Ref}}
	if a := spec.Auth; a != nil {
		request.Auth = &api.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	pulled, err := r.is.PullImage(ctx, request)
	if err != nil {
		return runtimeiface.Image{}, pullError(ctx, err, spec.Ref)
	}
	image, err := r.ImageStatus(ctx, pulled.ImageRef)
	if errors.Is(err, runtimeiface.ErrNotFound) { // some give a reference that they do not take
		image, err = r.ImageStatus(ctx, ref)
	}
	if err != nil {
		return runtimeiface.Image{}, fmt.Errorf("pull %s: %w", spec.Ref, err)
	}
	progress(runtimeiface.PullProgress{Ref: spec.Ref, Phase: "done", Done: image.Size, Total: image.Size})
	return image, nil
}

// ImageStatus asks for one image.
func (r *Runtime) ImageStatus(ctx context.Context, ref string) (runtimeiface.Image, error) {
	if err := ctx.Err(); err != nil {
		return runtimeiface.Image{}, err
	}
	if !isID(ref) && checkRef(ref) != nil {
		return runtimeiface.Image{}, fmt.Errorf("image %q: %w", ref, runtimeiface.ErrNotFound)
	}
	response, err := ask(ctx, r, r.is.ImageStatus, &api.ImageStatusRequest{Image: &api.ImageSpec{Image: withTag(ref)}})
	if err != nil {
		return runtimeiface.Image{}, translate(ctx, err, "status of image %s", ref)
	}
	if response.Image == nil {
		return runtimeiface.Image{}, fmt.Errorf("image %s: %w", ref, runtimeiface.ErrNotFound)
	}
	return toImage(response.Image), nil
}

// ListImages lists images.
func (r *Runtime) ListImages(ctx context.Context) ([]runtimeiface.Image, error) {
	response, err := ask(ctx, r, r.is.ListImages, &api.ListImagesRequest{})
	if err != nil {
		return nil, translate(ctx, err, "list images")
	}
	list := make([]runtimeiface.Image, 0, len(response.Images))
	for _, image := range response.Images {
		list = append(list, toImage(image))
	}
	slices.SortFunc(list, func(a, b runtimeiface.Image) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// RemoveImage removes an image that no container stands on. A CRI removes all
// names of an image at once: one of several is ErrNotSupported.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	act := "remove image " + ref
	return finishErr(ctx, r, act, r.cfg.Timeout, func(ctx context.Context) error {
		image, err := r.ImageStatus(ctx, ref)
		if errors.Is(err, runtimeiface.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", act, err)
		}
		if others := otherNames(image, ref); len(others) > 0 {
			return fmt.Errorf("%s: %w", act, notSupported(ref, "is one name of several, which the CRI removes together: "+strings.Join(others, ", ")))
		}
		list, err := ask(ctx, r, r.rs.ListContainers, &api.ListContainersRequest{})
		if err != nil {
			return translate(ctx, err, "%s: list containers", act)
		}
		for _, c := range list.Containers {
			_, _, k, _ := unmarked(c.Labels, c.Annotations)
			for _, used := range append(k.Mounted, k.Image, c.ImageId, c.ImageRef) {
				if used == image.ID || imageID(used) == image.ID || slices.Contains(image.Digests, used) {
					return fmt.Errorf("%s: %w: container %s stands on it", act, runtimeiface.ErrInUse, c.Id)
				}
			}
		}
		_, err = r.is.RemoveImage(ctx, &api.RemoveImageRequest{Image: &api.ImageSpec{Image: image.ID}})
		if err != nil && !isNotFound(err) {
			return translate(ctx, err, "%s", act)
		}
		return nil
	})
}

// otherNames are those that are not ref and do not go with it: a digest goes
// with the last tag of its repository.
func otherNames(image runtimeiface.Image, ref string) []string {
	if isID(ref) {
		return nil
	}
	full := canonical(ref)
	var others []string
	for _, tag := range image.Tags {
		if canonical(tag) != full {
			others = append(others, tag)
		}
	}
	for _, digest := range image.Digests {
		if canonical(digest) != full && repository(digest) != repository(ref) {
			others = append(others, digest)
		}
	}
	return others
}

func canonical(ref string) string {
	if parsed, err := name.ParseReference(ref); err == nil {
		return parsed.Name()
	}
	return ref
}

func repository(ref string) string {
	if parsed, err := name.ParseReference(ref); err == nil {
		return parsed.Context().Name()
	}
	return ref
}

func toImage(in *api.Image) runtimeiface.Image {
	image := runtimeiface.Image{
		ID: imageID(in.Id), Tags: slices.Clone(in.RepoTags), Digests: slices.Clone(in.RepoDigests), Size: int64(in.Size), User: in.Username,
		Pinned: in.Pinned,
	}
	if in.Username == "" && in.Uid != nil {
		image.User = strconv.FormatInt(in.Uid.Value, 10)
	}
	slices.Sort(image.Tags)
	slices.Sort(image.Digests)
	return image
}

// isID tells an ID from a reference.
func isID(ref string) bool {
	hex, ok := strings.CutPrefix(ref, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// checkRef lets no reference through that runtimes would word their own way.
func checkRef(ref string) error {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return fmt.Errorf("%w: %w", runtimeiface.ErrInvalidImageName, err)
	}
	if digest, ok := parsed.(name.Digest); ok {
		if _, err := v1.NewHash(digest.DigestStr()); err != nil {
			return fmt.Errorf("%w: %w", runtimeiface.ErrInvalidImageName, err)
		}
	}
	return nil
}

// withTag adds ":latest" where nothing else tells the version, as the kubelet does.
func withTag(ref string) string {
	if isID(ref) || strings.Contains(ref, "@") {
		return ref
	}
	last := ref[strings.LastIndex(ref, "/")+1:]
	if strings.Contains(last, ":") {
		return ref
	}
	return ref + ":latest"
}
