package runtimetest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// image is one in the registry, with one tag, or one on the node, with all its
// names.
type image struct {
	FakeImage
	id, digest    string
	tags, digests []string
}

// AddImage offers an image in the fake's registry, in place of one of the same
// reference. What was pulled stays as it was. ErrInvalidImageName.
func (f *Fake) AddImage(spec FakeImage) error {
	ref, err := parseRef(spec.Ref)
	if err != nil {
		return fmt.Errorf("add image: %w", err)
	}
	if ref.tag == "" {
		return fmt.Errorf("add image %s: %w: it has no tag", spec.Ref, runtimeiface.ErrInvalidImageName)
	}
	spec.Entrypoint, spec.Cmd, spec.Env = slices.Clone(spec.Entrypoint), slices.Clone(spec.Cmd), slices.Clone(spec.Env)
	spec.Dirs = slices.Clone(spec.Dirs)
	spec.Size, spec.Layers = cmp.Or(spec.Size, 10<<20), cmp.Or(spec.Layers, 1)
	content := cmp.Or(spec.Content, spec.Ref)
	img := &image{
		FakeImage: spec, id: sum("config", content), digest: sum("manifest", content),
		tags: []string{ref.String()},
	}
	f.lock()
	defer f.unlock()
	f.registry[ref.String()] = img
	if spec.Present {
		f.bring(img, ref)
	}
	return nil
}

func sum(parts ...string) string {
	s := sha256.Sum256([]byte(strings.Join(parts, " ")))
	return "sha256:" + hex.EncodeToString(s[:])
}

// PullImage finds the image in the fake's registry and lets it arrive over its
// time.
func (f *Fake) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, progress func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	if progress == nil {
		progress = func(runtimeiface.PullProgress) {}
	}
	var out runtimeiface.Image
	err := f.do(ctx, Call{Op: OpPullImage, Image: spec.Ref}, func() error {
		ref, err := parseRef(spec.Ref)
		if err != nil {
			return fmt.Errorf("pull image: %w", err)
		}
		progress(runtimeiface.PullProgress{Ref: spec.Ref, Phase: "resolving"})
		img, err := f.offered(ref, spec.Auth)
		if err != nil {
			return fmt.Errorf("pull image %s: %w", spec.Ref, err)
		}
		if err := f.download(ctx, spec.Ref, img, progress); err != nil {
			return fmt.Errorf("pull image %s: %w", spec.Ref, err)
		}
		f.lock()
		out = f.bring(img, ref).status()
		f.unlock()
		progress(runtimeiface.PullProgress{
			Ref: spec.Ref, Phase: "done", Done: img.Size, Total: img.Size, LayersDone: img.Layers, Layers: img.Layers,
		})
		return nil
	})
	if err != nil {
		return runtimeiface.Image{}, err
	}
	return out, nil
}

func (f *Fake) offered(ref reference, auth *runtimeiface.Auth) (*image, error) {
	f.lock()
	defer f.unlock()
	img := f.registry[ref.String()]
	if img == nil && ref.digest != "" {
		for _, candidate := range f.registry {
			r, _ := parseRef(candidate.Ref)
			if r.name == ref.name && candidate.digest == ref.digest {
				img = candidate
			}
		}
	}
	if img == nil {
		return nil, runtimeiface.ErrNotFound
	}
	if img.Auth != nil && (auth == nil || *auth != *img.Auth) {
		return nil, runtimeiface.ErrUnauthorized
	}
	return img, nil
}

// download spends PullTakes, half of it before PullErr.
func (f *Fake) download(ctx context.Context, ref string, img *image, progress func(runtimeiface.PullProgress)) error {
	const parts = 4
	step := img.PullTakes / parts
	for part := range parts {
		progress(runtimeiface.PullProgress{
			Ref: ref, Phase: "downloading", Done: img.Size * int64(part) / parts, Total: img.Size,
			LayersDone: img.Layers * part / parts, Layers: img.Layers,
		})
		if part == parts/2 && img.PullErr != nil {
			return img.PullErr
		}
		if err := f.sleep(ctx, step); err != nil {
			return err
		}
	}
	progress(runtimeiface.PullProgress{
		Ref: ref, Phase: "unpacking", Done: img.Size, Total: img.Size, LayersDone: img.Layers - 1, Layers: img.Layers,
	})
	return ctx.Err()
}

// bring has the image on the node under ref, and takes a tag from another.
func (f *Fake) bring(img *image, ref reference) *image {
	local := f.images[img.id]
	if local == nil {
		local = &image{FakeImage: img.FakeImage, id: img.id, digest: img.digest}
		f.images[img.id] = local
	}
	if ref.tag != "" {
		for _, other := range f.images {
			other.tags = slices.DeleteFunc(other.tags, func(t string) bool { return t == ref.String() })
		}
		local.tags = addSorted(local.tags, ref.String())
	}
	local.digests = addSorted(local.digests, ref.name+"@"+img.digest)
	return local
}

func addSorted(list []string, s string) []string {
	list = append(list, s)
	slices.Sort(list)
	return slices.Compact(list)
}

// ImageStatus finds an image on the node.
func (f *Fake) ImageStatus(ctx context.Context, ref string) (runtimeiface.Image, error) {
	var out runtimeiface.Image
	err := f.do(ctx, Call{Op: OpImageStatus, Image: ref}, func() error {
		f.lock()
		defer f.unlock()
		img, _ := f.local(ref)
		if img == nil {
			return fmt.Errorf("status of image %q: %w", ref, runtimeiface.ErrNotFound)
		}
		out = img.status()
		return nil
	})
	return out, err
}

// local gives the image that ref names and its full name, "" for an ID.
func (f *Fake) local(ref string) (*image, string) {
	if img := f.images[ref]; img != nil {
		return img, ""
	}
	r, err := parseRef(ref)
	if err != nil {
		return nil, ""
	}
	for _, img := range f.images {
		if slices.Contains(img.tags, r.String()) || slices.Contains(img.digests, r.String()) {
			return img, r.String()
		}
	}
	return nil, ""
}

// ListImages gives copies, ordered by ID.
func (f *Fake) ListImages(ctx context.Context) ([]runtimeiface.Image, error) {
	out := []runtimeiface.Image{}
	err := f.do(ctx, Call{Op: OpListImages}, func() error {
		f.lock()
		defer f.unlock()
		for _, img := range f.sortedImages() {
			out = append(out, img.status())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RemoveImage forgets an image, or a name of it.
func (f *Fake) RemoveImage(ctx context.Context, ref string) error {
	return f.do(ctx, Call{Op: OpRemoveImage, Image: ref}, func() error {
		f.lock()
		defer f.unlock()
		img, name := f.local(ref)
		if img == nil {
			return nil
		}
		last := name == "" || len(img.tags)+len(img.digests) == 1
		for _, c := range f.containers {
			if last && (c.image == img || slices.Contains(c.mounted, img)) {
				return fmt.Errorf("remove image %s: %w by container %s", ref, runtimeiface.ErrInUse, c.ID)
			}
		}
		if last {
			delete(f.images, img.id)
			return nil
		}
		is := func(n string) bool { return n == name }
		img.tags, img.digests = slices.DeleteFunc(img.tags, is), slices.DeleteFunc(img.digests, is)
		return nil
	})
}

// ImageFilesystem counts the images on the node against FakeConfig.ImageCapacity.
func (f *Fake) ImageFilesystem(ctx context.Context) (runtimeiface.Filesystem, error) {
	var out runtimeiface.Filesystem
	err := f.do(ctx, Call{Op: OpImageFilesystem}, func() error {
		f.lock()
		defer f.unlock()
		out = runtimeiface.Filesystem{Path: "/fake/images", CapacityBytes: f.capacity}
		for _, img := range f.images {
			out.UsedBytes += img.Size
			out.UsedInodes += int64(img.Layers)
		}
		out.AvailableBytes = max(0, out.CapacityBytes-out.UsedBytes)
		return nil
	})
	if err != nil {
		return runtimeiface.Filesystem{}, err
	}
	return out, nil
}

func (f *Fake) sortedImages() []*image {
	return slices.SortedFunc(maps.Values(f.images), func(a, b *image) int { return cmp.Compare(a.id, b.id) })
}

func (img *image) status() runtimeiface.Image {
	return runtimeiface.Image{
		ID: img.id, Tags: slices.Clone(img.tags), Digests: slices.Clone(img.digests), Size: img.Size, User: img.User,
		Pinned: img.Pinned,
	}
}

// argv is the program that a container of the image runs.
func (img *image) argv(spec runtimeiface.ContainerSpec) []string {
	switch {
	case len(spec.Command) > 0:
		return slices.Concat(spec.Command, spec.Args)
	case len(spec.Args) > 0:
		return slices.Concat(img.Entrypoint, spec.Args)
	default:
		return slices.Concat(img.Entrypoint, img.Cmd)
	}
}
