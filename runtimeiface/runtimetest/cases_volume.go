package runtimetest

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func volumeCases() []Case {
	return []Case{
		newCase("image volume/files", "a mount of an image shows its files, with their owners, read-only", imageVolume, Kernel),
		newCase("image volume/subpath", "with subpath it is a directory of the image", imageSubpath, Kernel),
		newCase("image volume/subpath that leads out", "no subpath and no symbolic link leads out of the image", imageEscape, Kernel),
		newCase("image volume/refused", "an image or a subpath that is not there is refused", imageVolumeErrors),
		newCase("image volume/in use", "an image that is mounted cannot be removed", imageVolumeInUse),
		newCase("image volume/userns", "files keep their owners as seen from within a user namespace", imageVolumeUserNS, Kernel, UserNS),
	}
}

func (k *kit) imageMount(destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "image", Source: k.image(k.s.Images.Volume), Destination: destination, Options: options}
}

// withVolume is a container with the volume image at /vol.
func (k *kit) withVolume(options []string, steps ...string) runtimeiface.ContainerSpec {
	spec := k.container(steps...)
	spec.Mounts = []specs.Mount{k.imageMount("/vol", options...)}
	return spec
}

func imageVolume(k *kit) {
	sb := k.pod()
	k.same(k.outputOf(sb, k.withVolume(nil, "cat", "/vol/hello", ";", "cat", "/vol/dir/inner", ";", "owner", "/vol/owned", ";", "ls", "/vol")),
		"volume\ninner\n1000 1000 640\ndir\nhello\nout\nowned\n", "files of the volume")
	for _, options := range [][]string{nil, {"ro"}} {
		for _, step := range [][]string{{"write", "/vol/new", "x"}, {"append", "/vol/hello", "x"}} {
			k.ends(k.start(sb, k.withVolume(options, step...)), 1, runtimeiface.ReasonError)
		}
	}
	// Two at once, of which neither is the root.
	spec := k.withVolume(nil, "cat", "/vol/hello", ";", "cat", "/vol2/hello", ";", "cat", "/layers/kept")
	spec.Mounts = append(spec.Mounts, k.imageMount("/vol2"))
	k.same(k.outputOf(sb, spec), "volume\nvolume\nlower\n", "files of two volumes and the root")
}

func imageSubpath(k *kit) {
	sb := k.pod()
	k.same(k.outputOf(sb, k.withVolume([]string{"subpath=dir"}, "ls", "/vol", ";", "cat", "/vol/inner")), "inner\ninner\n", "files of the directory")
	k.ends(k.start(sb, k.withVolume([]string{"subpath=dir"}, "write", "/vol/new", "x")), 1, runtimeiface.ReasonError)
}

func imageEscape(k *kit) {
	sb := k.pod()
	marker := filepath.Join(k.hostDir(), "marker")
	k.ok(os.WriteFile(marker, []byte("of the node\n"), 0o644), "write")
	for _, sub := range []string{"..", "dir/../..", "/etc"} {
		_, err := k.rt.CreateContainer(k.ctx, sb, k.withVolume([]string{"subpath=" + sub}))
		k.is(err, runtimeiface.ErrInvalid, "create a container with subpath %q", sub)
	}
	// A link out of the image is refused, or followed as if the image were all there is.
	node, err := os.ReadDir("/etc")
	k.ok(err, "read the node's /etc")
	spec := k.withVolume([]string{"subpath=out"}, "ls", "/vol", ";", "print", endMark)
	id, err := k.rt.CreateContainer(k.ctx, sb, spec)
	if err != nil {
		k.is(err, runtimeiface.ErrInvalid, "create a container with a subpath that is a link out of the image")
		return
	}
	if err := k.rt.StartContainer(k.ctx, id); err != nil {
		return
	}
	seen := strings.Fields(k.untilEnd(k.exited(id).LogPath))
	for _, name := range seen {
		for _, e := range node {
			k.that(e.Name() != name, "the node's /etc/%s is seen", name)
		}
	}
}

func imageVolumeErrors(k *kit) {
	sb := k.pod()
	for what, t := range map[string]struct {
		mount specs.Mount
		want  error
	}{
		"an unknown image":            {specs.Mount{Type: "image", Destination: "/vol", Source: "sha256:" + strings.Repeat("0", 64)}, runtimeiface.ErrNotFound},
		"a subpath that is not there": {k.imageMount("/vol", "subpath=nothing"), runtimeiface.ErrInvalid},
		"rw":                          {k.imageMount("/vol", "rw"), runtimeiface.ErrInvalid},
		"no image":                    {specs.Mount{Type: "image", Destination: "/vol"}, runtimeiface.ErrInvalid},
	} {
		spec := k.container()
		spec.Mounts = []specs.Mount{t.mount}
		_, err := k.rt.CreateContainer(k.ctx, sb, spec)
		k.is(err, t.want, "create a container with a mount of %s", what)
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 0, "containers left")
}

func imageVolumeInUse(k *kit) {
	k.withoutSpare(func() {
		img := k.pull(k.s.Images.Spare)
		spec := k.container("exit", "0")
		spec.Mounts = []specs.Mount{{Type: "image", Source: img.ID, Destination: "/vol"}}
		sb := k.pod()
		id := k.create(sb, spec)
		k.is(k.rt.RemoveImage(k.ctx, img.ID), runtimeiface.ErrInUse, "remove an image that a created container has mounted")
		k.ok(k.rt.StartContainer(k.ctx, id), "start")
		k.exited(id)
		k.is(k.rt.RemoveImage(k.ctx, img.ID), runtimeiface.ErrInUse, "remove an image that an exited container has mounted")
		k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
		k.removeImage(img.ID)
		k.noImage(img.ID)
	})
}

func imageVolumeUserNS(k *kit) {
	sb := k.pod(userNS)
	k.same(k.outputOf(sb, k.withVolume(nil, "owner", "/vol/hello", ";", "owner", "/vol/owned", ";", "cat", "/vol/owned")),
		"0 0 644\n1000 1000 640\nowned\n", "owners of the volume's files")
}
