package oci

import (
	"context"
	"fmt"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// PullImage brings an image from its registry.
func (r *Runtime) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, progress func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Image{}, err
	}
	var opts image.PullOptions
	if a := spec.Auth; a != nil {
		opts.Auth = image.Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	if progress != nil {
		opts.Progress = func(p image.Progress) {
			out := runtimeiface.PullProgress{
				Ref: p.Ref, Phase: string(p.Phase), Done: p.Done, Total: p.Total, Layers: len(p.Layers),
			}
			for _, l := range p.Layers {
				if l.Phase == image.PhaseDone {
					out.LayersDone++
				}
			}
			progress(out)
		}
	}
	img, err := r.store.Pull(ctx, spec.Ref, opts)
	if err != nil {
		if ctx.Err() != nil {
			return runtimeiface.Image{}, ctx.Err()
		}
		return runtimeiface.Image{}, translate(err)
	}
	return imageOf(img), nil
}

// ImageStatus finds an image on the node.
func (r *Runtime) ImageStatus(ctx context.Context, ref string) (runtimeiface.Image, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Image{}, err
	}
	img, err := r.store.Get(ref)
	if err != nil {
		return runtimeiface.Image{}, translate(err)
	}
	return imageOf(img), nil
}

// ListImages gives the images of the node, by ID.
func (r *Runtime) ListImages(ctx context.Context) ([]runtimeiface.Image, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	out := []runtimeiface.Image{}
	for _, img := range r.store.List() {
		out = append(out, imageOf(img))
	}
	return out, nil
}

// RemoveImage forgets an image or one name of it.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	return translate(r.store.Remove(ref))
}

// CollectImages removes images that were unused the longest until enough of the
// file system is free, or with policy.DryRun tells what it would remove, and
// when: which image takes how much, who has it, and why it stays. It decides
// nothing by itself: the caller calls it, as often as it wants. What it did
// before ctx ended is given with ctx's error.
func (r *Runtime) CollectImages(ctx context.Context, policy image.CollectPolicy) (image.Collection, error) {
	if err := r.ready(ctx); err != nil {
		return image.Collection{}, err
	}
	c, err := r.store.Collect(ctx, policy)
	if ctx.Err() != nil {
		return c, ctx.Err()
	}
	return c, translate(err)
}

// ImageFilesystem tells of the file system that Config.Images.Root is on. What
// only root may use of it is not available, as the kubelet counts.
func (r *Runtime) ImageFilesystem(ctx context.Context) (runtimeiface.Filesystem, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Filesystem{}, err
	}
	f, err := r.store.Filesystem()
	if err != nil {
		return runtimeiface.Filesystem{}, fmt.Errorf("image file system: %w", translate(err))
	}
	return runtimeiface.Filesystem{
		Path: f.Path, UsedBytes: f.Images.Bytes, UsedInodes: f.Images.Inodes, CapacityBytes: f.Size, AvailableBytes: f.Available,
		Inodes: f.Inodes, AvailableInodes: f.InodesFree,
	}, nil
}

// ContainerFilesystem tells what a container has written into its own root file
// system, in UsedBytes and UsedInodes, by walking it; the rest is zero. ErrNotFound.
func (r *Runtime) ContainerFilesystem(ctx context.Context, id string) (runtimeiface.Filesystem, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Filesystem{}, err
	}
	usage, err := r.store.ContainerUsage(ctx, id)
	if err != nil {
		return runtimeiface.Filesystem{}, translate(err)
	}
	return runtimeiface.Filesystem{UsedBytes: usage.Bytes, UsedInodes: usage.Inodes}, nil
}

func imageOf(img image.Image) runtimeiface.Image {
	return runtimeiface.Image{
		ID: img.ID, Tags: img.RepoTags, Digests: img.RepoDigests, Size: img.Size, User: img.Config.User,
	}
}
