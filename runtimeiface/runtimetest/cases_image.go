package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

func imageCases() []Case {
	return []Case{
		newCase("image/pull", "PullImage brings the image and tells its progress", pullCase),
		newCase("image/status", "an image is found by ID, tag and digest", imageStatusCase),
		newCase("image/pull by digest", "a digest names the image too", pullByDigest),
		newCase("image/user", "the configuration's user is told", imageUser),
		newCase("image/list", "ListImages gives copies, ordered by ID", listImages),
		newCase("image/errors", "what the registry says is told apart", pullErrors),
		newCase("image/private", "credentials open a private registry, and only the right ones", pullPrivate),
		newCase("image/index", "of an index the image for this platform is taken", imageIndex),
		newCase("image/other platform", "an index without this platform is ErrNotFound", imageOtherPlatform),
		newCase("image/unknown kinds", "manifests of schema 1 and of unknown kinds are refused", imageKinds),
		newCase("image/broken layers", "a layer that is truncated or not what its digest says is refused, and nothing of it is left", imageBroken),
		newCase("image/file system", "ImageFilesystem tells how much images take, and of what", imageFilesystem),
		newCase("image/two names", "two tags of one content are one image; removing one leaves the other", twoNames),
		newCase("image/last name", "the content goes with the last name", lastName),
		newCase("image/in use", "an image that a container stands on cannot be removed", imageInUse),
		newCase("image/cancelled pull", "a cancelled pull gives ctx's error and is no image; the next one works", cancelledPull),
	}
}

func (k *kit) pull(ref string) runtimeiface.Image {
	img, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	k.ok(err, "pull image %s", ref)
	return img
}

func (k *kit) removeImage(ref string) { k.ok(k.rt.RemoveImage(k.ctx, ref), "remove image %s", ref) }

// noImage wants that a reference is not on the node.
func (k *kit) noImage(ref string) {
	_, err := k.rt.ImageStatus(k.ctx, ref)
	k.is(err, runtimeiface.ErrNotFound, "status of image %s", ref)
}

// withoutSpare has the image that cases remove gone, before and after.
func (k *kit) withoutSpare(body func()) {
	gone := func() {
		if img, err := k.rt.ImageStatus(k.ctx, k.s.Images.Spare); err == nil {
			k.removeImage(img.ID)
		}
		k.noImage(k.s.Images.Spare)
	}
	gone()
	body()
	gone()
}

func pullCase(k *kit) {
	k.withoutSpare(func() {
		var steps []runtimeiface.PullProgress
		returned := false
		img, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: k.s.Images.Spare}, func(p runtimeiface.PullProgress) {
			if !returned {
				steps = append(steps, p)
			}
		})
		returned = true
		k.ok(err, "pull")
		k.that(strings.HasPrefix(img.ID, "sha256:") && len(img.ID) == 71, "ID is %q", img.ID)
		k.same(img.Tags, []string{k.s.Images.Spare}, "tags")
		k.same(len(img.Digests), 1, "number of digests")
		k.that(strings.Contains(img.Digests[0], "@sha256:"), "digest is %q", img.Digests[0])
		k.that(img.Size > 0, "size is %d", img.Size)
		k.that(len(steps) > 0, "there was no progress")
		last := steps[len(steps)-1]
		k.same(last.Phase, "done", "last phase")
		k.same(last.Done, last.Total, "bytes done of total at the end")
		k.same(last.LayersDone, last.Layers, "layers done of all at the end")
		order := []string{"resolving", "downloading", "unpacking", "done"}
		phase, done := 0, int64(0)
		for _, p := range steps {
			k.same(p.Ref, k.s.Images.Spare, "reference in progress")
			now := slices.Index(order, p.Phase)
			k.that(now >= phase, "phase %q after %q", p.Phase, order[phase])
			k.that(p.Done >= done, "%d bytes done after %d", p.Done, done)
			phase, done = now, p.Done
		}
		k.same(k.pull(k.s.Images.Spare), img, "the same image pulled again")
	})
}

func imageStatusCase(k *kit) {
	img := k.pull(k.s.Images.Prog)
	for _, ref := range append([]string{img.ID, k.s.Images.Prog}, img.Digests...) {
		got, err := k.rt.ImageStatus(k.ctx, ref)
		k.ok(err, "status of %s", ref)
		k.same(got, img, "status of %s", ref)
	}
	k.noImage(k.s.Images.Missing)
	k.noImage("sha256:0000000000000000000000000000000000000000000000000000000000000000")
}

func pullByDigest(k *kit) {
	k.withoutSpare(func() {
		digest := k.pull(k.s.Images.Spare).Digests[0]
		first := k.pull(k.s.Images.Spare)
		k.removeImage(first.ID)
		img := k.pull(digest)
		k.same(img.ID, first.ID, "ID of the image pulled by digest")
		k.same(img.Digests, []string{digest}, "digests")
		k.same(len(img.Tags), 0, "number of tags")
		k.removeImage(img.ID)
	})
}

func imageUser(k *kit) {
	k.same(k.pull(k.s.Images.Configured).User, "app", "user of the configured image")
	k.same(k.pull(k.s.Images.Prog).User, "", "user of an image without one")
}

func listImages(k *kit) {
	one, two := k.pull(k.s.Images.Prog), k.pull(k.s.Images.Configured)
	list, err := k.rt.ListImages(k.ctx)
	k.ok(err, "list")
	k.that(slices.IsSortedFunc(list, func(a, b runtimeiface.Image) int { return strings.Compare(a.ID, b.ID) }), "the list is not ordered by ID")
	for _, want := range []runtimeiface.Image{one, two} {
		at := slices.IndexFunc(list, func(img runtimeiface.Image) bool { return img.ID == want.ID })
		k.that(at >= 0, "image %s is not in the list", want.ID)
		k.same(list[at], want, "image in the list")
		list[at].Tags[0] = "changed in a copy"
	}
	again, err := k.rt.ImageStatus(k.ctx, one.ID)
	k.ok(err, "status")
	k.same(again, one, "image after a copy was changed")
}

func pullErrors(k *kit) {
	for _, t := range []struct {
		name, ref string
		want      error
	}{
		{"missing", k.s.Images.Missing, runtimeiface.ErrNotFound},
		{"unreachable", k.s.Images.Unreachable, runtimeiface.ErrUnavailable},
		{"private", k.s.Images.Private, runtimeiface.ErrUnauthorized},
		{"empty", "", runtimeiface.ErrInvalidImageName},
		{"upper case", "registry.test/UPPER:1", runtimeiface.ErrInvalidImageName},
		{"two colons", "registry.test/app:1:2", runtimeiface.ErrInvalidImageName},
		{"bad digest", "registry.test/app@sha256:12", runtimeiface.ErrInvalidImageName},
	} {
		_, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: t.ref}, nil)
		k.is(err, t.want, "pull of a %s reference", t.name)
		_, err = k.rt.ImageStatus(k.ctx, t.ref)
		k.that(err != nil, "after a failed pull of a %s reference it is an image", t.name)
	}
	k.removeImage(k.s.Images.Missing)
}

func pullPrivate(k *kit) {
	k.withoutSpare(func() {
		auth := *k.s.Images.PrivateAuth
		auth.Password += "x"
		_, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: k.s.Images.Private, Auth: &auth}, nil)
		k.is(err, runtimeiface.ErrUnauthorized, "pull with a wrong password")
		k.that(!strings.Contains(err.Error(), auth.Password), "the error tells the password")
		k.noImage(k.s.Images.Private)
		img, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: k.s.Images.Private, Auth: k.s.Images.PrivateAuth}, nil)
		k.ok(err, "pull with credentials")
		k.removeImage(img.ID)
	})
}

func imageIndex(k *kit) {
	img := k.pull(k.s.Images.MultiArch)
	k.same(img.Tags, []string{k.s.Images.MultiArch}, "tags")
	for _, digest := range img.Digests {
		again := k.pull(digest)
		k.same(again.ID, img.ID, "ID when pulled by digest")
	}
	spec := k.container("print", "this platform")
	spec.Image = img.ID
	k.same(k.outputOf(k.pod(), spec), "this platform\n", "output")
}

// refused wants a pull to fail and to leave nothing.
func (k *kit) refused(ref string) error {
	img, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	k.that(err != nil, "pull of %s gave image %s", ref, img.ID)
	k.that(k.ctx.Err() == nil, "pull of %s did not end: %v", ref, err)
	k.noImage(ref)
	list, listErr := k.rt.ListImages(k.ctx)
	k.ok(listErr, "list")
	for _, img := range list {
		k.that(!slices.Contains(img.Tags, ref), "image %s has tag %s", img.ID, ref)
	}
	return err
}

func imageOtherPlatform(k *kit) {
	k.is(k.refused(k.s.Images.OtherPlatform), runtimeiface.ErrNotFound, "pull of an index without this platform")
}

func imageKinds(k *kit) {
	for _, ref := range []string{k.s.Images.Schema1, k.s.Images.UnknownType} {
		err := k.refused(ref)
		k.that(!errors.Is(err, runtimeiface.ErrUnauthorized), "pull of %s: %v", ref, err)
	}
}

func imageBroken(k *kit) {
	for _, ref := range []string{k.s.Images.Truncated, k.s.Images.Corrupt} {
		for range 2 {
			err := k.refused(ref)
			k.that(!errors.Is(err, runtimeiface.ErrUnauthorized) && !errors.Is(err, runtimeiface.ErrNotFound), "pull of %s: %v", ref, err)
		}
	}
	k.same(k.output(k.pod(), "print", "fine"), "fine\n", "output of an image that shares layers with the broken ones")
}

func imageFilesystem(k *kit) {
	img := k.pull(k.s.Images.Prog)
	k.eventually("figures of the file system", func() error {
		f, err := k.rt.ImageFilesystem(k.ctx)
		k.ok(err, "image file system")
		k.that(filepath.IsAbs(f.Path), "path is %q", f.Path)
		k.that(f.CapacityBytes >= 0 && f.AvailableBytes >= 0 && f.Inodes >= 0 && f.AvailableInodes >= 0, "figures are %+v", f)
		k.that(f.CapacityBytes == 0 || f.AvailableBytes <= f.CapacityBytes, "more is available than there is: %+v", f)
		if f.UsedBytes < img.Size/2 || f.UsedInodes < 1 {
			return fmt.Errorf("images take %d bytes and %d inodes, one is of %d bytes", f.UsedBytes, f.UsedInodes, img.Size)
		}
		return nil
	})
}

func twoNames(k *kit) {
	k.withoutSpare(func() {
		one, two := k.pull(k.s.Images.Spare), k.pull(k.s.Images.SpareAlias)
		k.same(two.ID, one.ID, "ID by the second tag")
		tags := []string{k.s.Images.Spare, k.s.Images.SpareAlias}
		slices.Sort(tags)
		k.same(two.Tags, tags, "tags")
		k.removeImage(k.s.Images.Spare)
		k.noImage(k.s.Images.Spare)
		left, err := k.rt.ImageStatus(k.ctx, k.s.Images.SpareAlias)
		k.ok(err, "status by the other tag")
		k.same(left.ID, one.ID, "ID by the other tag")
		k.same(left.Tags, []string{k.s.Images.SpareAlias}, "tags left")
		k.removeImage(left.ID)
		k.noImage(k.s.Images.SpareAlias)
	})
}

func lastName(k *kit) {
	k.withoutSpare(func() {
		img := k.pull(k.s.Images.Spare)
		for _, name := range append(slices.Clone(img.Tags), img.Digests...) {
			k.removeImage(name)
			k.removeImage(name)
			k.noImage(name)
		}
		k.noImage(img.ID)
		k.same(k.pull(k.s.Images.Spare).ID, img.ID, "ID when pulled again")
	})
}

func imageInUse(k *kit) {
	k.withoutSpare(func() {
		img := k.pull(k.s.Images.Spare)
		sb := k.pod()
		spec := k.container("exit", "0")
		spec.Image = img.ID
		id := k.create(sb, spec)
		k.is(k.rt.RemoveImage(k.ctx, img.ID), runtimeiface.ErrInUse, "remove the image of a created container")
		k.ok(k.rt.StartContainer(k.ctx, id), "start")
		k.exited(id)
		k.is(k.rt.RemoveImage(k.ctx, img.ID), runtimeiface.ErrInUse, "remove the image of an exited container")
		got, err := k.rt.ImageStatus(k.ctx, img.ID)
		k.ok(err, "status after the refusals")
		k.same(got, img, "image after the refusals")
		k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
		k.removeImage(img.ID)
		k.noImage(img.ID)
	})
}

func cancelledPull(k *kit) {
	k.withoutSpare(func() {
		ctx, cancel := context.WithCancel(k.ctx)
		defer cancel()
		_, err := k.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: k.s.Images.Spare}, func(p runtimeiface.PullProgress) {
			cancel() // at the first sign of life
		})
		k.is(err, context.Canceled, "pull that is cancelled")
		k.noImage(k.s.Images.Spare)
		img := k.pull(k.s.Images.Spare)
		spec := k.container("cwd")
		spec.Image = img.ID
		sb := k.pod()
		k.same(k.outputOf(sb, spec), "/\n", "output of a container of the image pulled next")
		k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
	})
}
