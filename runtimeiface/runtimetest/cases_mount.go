package runtimetest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func mountCases() []Case {
	return []Case{
		newCase("mount/bind", "a bind mount shows the host's files, both ways", mountBind, Kernel),
		newCase("mount/read-only bind", "a read-only bind mount cannot be written", mountReadOnly, Kernel),
		newCase("mount/file", "a single file can be mounted", mountFile, Kernel),
		newCase("mount/tmpfs", "a tmpfs is empty, writable and the container's own", mountTmpfs, Kernel),
		newCase("mount/given", "/proc, /dev, /sys, /dev/shm, /etc/hostname and /etc/resolv.conf are there", mountGiven, Kernel),
		newCase("mount/DNS", "DNS becomes /etc/resolv.conf", mountDNS, Kernel),
		newCase("mount/propagation", "mounts that the host makes later are seen with rslave alone", mountSlave, Kernel),
		newCase("mount/shared", "mounts that a container makes are seen by the host with rshared alone", mountShared, Kernel),
		newCase("mount/recursive read-only", "with rro mounts below are read-only too, with ro alone they are not", mountRecursive, Kernel),
		newCase("root/own", "what a container writes is its own, gone with it, and not in the image", rootOwn, Kernel),
		newCase("root/read-only", "a read-only root cannot be written, mounts in it can", rootReadOnly, Kernel),
		newCase("root/layers", "upper layers change and remove what lower ones hold", rootLayers, Kernel),
	}
}

// hostDir makes a directory that containers can be given, under LogRoot.
func (k *kit) hostDir() string {
	dir := filepath.Join(k.s.LogRoot, "mount-"+newUID())
	k.ok(os.MkdirAll(dir, 0o755), "make directory")
	k.ok(os.Chmod(dir, 0o777), "make directory")
	return dir
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: append([]string{"rbind"}, options...)}
}

func mountBind(k *kit) {
	dir := k.hostDir()
	k.ok(os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644), "write")
	sb := k.pod()
	spec := k.container("cat", "/mnt/in", ";", "write", "/mnt/out", "from the container", ";", "ls", "/mnt")
	spec.Mounts = []specs.Mount{bind(dir, "/mnt")}
	k.same(k.outputOf(sb, spec), "from the host\nin\nout\n", "output")
	got, err := os.ReadFile(filepath.Join(dir, "out"))
	k.ok(err, "read what the container wrote")
	k.same(string(got), "from the container", "what the container wrote")
	other := k.container("cat", "/elsewhere/deep/out")
	other.Mounts = []specs.Mount{bind(dir, "/elsewhere/deep")}
	k.same(k.outputOf(sb, other), "from the container", "what another container reads")
}

func mountReadOnly(k *kit) {
	dir := k.hostDir()
	k.ok(os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644), "write")
	sb := k.pod()
	spec := k.container("cat", "/mnt/in")
	spec.Mounts = []specs.Mount{bind(dir, "/mnt", "ro")}
	k.same(k.outputOf(sb, spec), "from the host\n", "output")
	for _, step := range [][]string{{"write", "/mnt/out", "x"}, {"append", "/mnt/in", "x"}} {
		writes := k.container(step...)
		writes.Mounts = spec.Mounts
		k.ends(k.start(sb, writes), 1, runtimeiface.ReasonError)
	}
	entries, err := os.ReadDir(dir)
	k.ok(err, "read directory")
	k.same(len(entries), 1, "files in the directory")
}

func mountFile(k *kit) {
	file := filepath.Join(k.hostDir(), "file")
	k.ok(os.WriteFile(file, []byte("one file\n"), 0o644), "write")
	spec := k.container("cat", "/etc/mounted.conf")
	spec.Mounts = []specs.Mount{bind(file, "/etc/mounted.conf", "ro")}
	k.same(k.outputOf(k.pod(), spec), "one file\n", "output")
}

func mountTmpfs(k *kit) {
	sb := k.pod()
	tmpfs := []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/layers", Options: []string{"nosuid", "nodev", "size=1m"}}}
	for range 2 {
		spec := k.container("ls", "/layers", ";", "write", "/layers/new", "x", ";", "ls", "/layers")
		spec.Mounts = tmpfs
		k.same(k.outputOf(sb, spec), "new\n", "what is in a tmpfs over a full directory")
	}
}

func mountGiven(k *kit) {
	sb, spec := k.podSpec()
	k.same(k.output(sb, "cat", "/etc/hostname"), spec.Name+"\n", "/etc/hostname")
	k.output(sb, "cat", "/etc/resolv.conf")
	k.output(sb, "ls", "/sys/kernel")
	k.output(sb, "cat", "/proc/self/status")
	devices := strings.Fields(k.output(sb, "ls", "/dev"))
	for _, want := range []string{"null", "zero", "full", "random", "urandom", "tty", "shm", "fd", "stdout"} {
		k.that(slices.Contains(devices, want), "/dev has no %s but %v", want, devices)
	}
	for _, not := range []string{"mem", "kmsg", "sda", "vda", "loop0"} {
		k.that(!slices.Contains(devices, not), "/dev has %s", not)
	}
	k.output(sb, "write", "/dev/null", "x", ";", "write", "/dev/shm/file", "x")
}

// sharedDir is a mount point of the node whose mounts are known to its copies.
func (k *kit) sharedDir() string {
	dir := k.hostDir()
	k.ok(mountOn(dir), "mount")
	k.later(func() { _ = unmount(dir) })
	k.ok(propagates(dir, true), "share")
	k.ok(os.Mkdir(filepath.Join(dir, "sub"), 0o755), "make directory")
	return dir
}

// waits is a container that stays until its file is there, and then does its steps.
func (k *kit) waits(dir string, steps ...string) runtimeiface.ContainerSpec {
	spec := k.container(append([]string{"print", "ready", ";", "await", "/go/go", ";"}, steps...)...)
	spec.Mounts = []specs.Mount{bind(dir, "/go")}
	return spec
}

func mountSlave(k *kit) {
	sb, dir, signal := k.pod(), k.sharedDir(), k.hostDir()
	ids := map[string]string{}
	for _, option := range []string{"rslave", "rprivate", ""} {
		spec := k.waits(signal, "ls", "/mnt/sub", ";", "print", endMark)
		options := []string{option}
		if option == "" {
			options = nil
		}
		spec.Mounts = append(spec.Mounts, bind(dir, "/mnt", options...))
		ids[option] = k.start(sb, spec)
		k.logHas(k.status(ids[option]).LogPath, "ready\n")
	}
	sub := filepath.Join(dir, "sub")
	k.ok(mountOn(sub), "mount below")
	k.later(func() { _ = unmount(sub) })
	k.ok(os.WriteFile(filepath.Join(sub, "later"), nil, 0o644), "write")
	k.ok(os.WriteFile(filepath.Join(signal, "go"), nil, 0o644), "write")
	for option, want := range map[string]string{"rslave": "ready\nlater\n", "rprivate": "ready\n", "": "ready\n"} {
		k.same(k.untilEnd(k.exited(ids[option]).LogPath), want, "what is seen with %q", option)
	}
}

func mountShared(k *kit) {
	sb, dir := k.pod(func(s *runtimeiface.SandboxSpec) { s.Privileged = true }), k.sharedDir()
	sub := filepath.Join(dir, "sub")
	for option, want := range map[string]int{"rshared": 1, "rslave": 0, "rprivate": 0} {
		spec := k.container("mount", "/mnt/sub", ";", "write", "/mnt/sub/within", "x", ";", "print", "ready", ";", "forever")
		spec.Security.Privileged = true
		spec.Mounts = []specs.Mount{bind(dir, "/mnt", option)}
		id := k.start(sb, spec)
		k.logHas(k.status(id).LogPath, "ready\n")
		seen, err := os.ReadDir(sub)
		k.ok(err, "read directory")
		k.same(len(seen), want, "files that the host sees with %s", option)
		k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
		if want > 0 {
			k.ok(unmount(sub), "unmount what the container left on the host")
		}
	}
}

func mountRecursive(k *kit) {
	sb, dir := k.pod(), k.hostDir()
	sub := filepath.Join(dir, "sub")
	k.ok(os.Mkdir(sub, 0o755), "make directory")
	k.ok(mountOn(sub), "mount below")
	k.later(func() { _ = unmount(sub) })
	for options, writes := range map[string]bool{"ro": true, "rro": false, "": true} {
		spec := k.container("write", "/mnt/sub/file", "x")
		spec.Mounts = []specs.Mount{bind(dir, "/mnt", strings.Fields(options)...)}
		if writes {
			k.outputOf(sb, spec)
			continue
		}
		id, err := k.rt.CreateContainer(k.ctx, sb, spec)
		if errors.Is(err, runtimeiface.ErrNotSupported) {
			continue // which is allowed; to write would not be
		}
		k.ok(err, "create container")
		k.ok(k.rt.StartContainer(k.ctx, id), "start container")
		k.ends(id, 1, runtimeiface.ReasonError)
	}
}

func mountDNS(k *kit) {
	sb := k.pod(func(s *runtimeiface.SandboxSpec) {
		s.DNS = &runtimeiface.DNS{
			Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5", "edns0"},
		}
	})
	got := map[string][]string{}
	for line := range strings.Lines(k.output(sb, "cat", "/etc/resolv.conf")) {
		if f := strings.Fields(line); len(f) > 1 {
			got[f[0]] = append(got[f[0]], f[1:]...)
		}
	}
	k.same(got, map[string][]string{
		"nameserver": {"192.0.2.1", "192.0.2.2"}, "search": {"a.test", "b.test"}, "options": {"ndots:5", "edns0"},
	}, "resolv.conf")
}

func rootOwn(k *kit) {
	sb := k.pod()
	k.output(sb, "write", "/layers/kept", "changed", ";", "write", "/new", "x")
	spec := k.container("cat", "/layers/kept")
	k.same(k.outputOf(sb, spec), "lower\n", "what another container reads")
	k.ends(k.prog(sb, "cat", "/new"), 1, runtimeiface.ReasonError)
	again := k.container("write", "/mine", "x")
	id := k.start(sb, again)
	k.exited(id)
	k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
	again.Args = []string{"cat", "/mine"}
	k.ends(k.start(sb, again), 1, runtimeiface.ReasonError)
}

func rootReadOnly(k *kit) {
	sb, dir := k.pod(), k.hostDir()
	for _, path := range []string{"/new", "/tmp/new", "/layers/kept"} {
		spec := k.container("write", path, "x")
		spec.Security.ReadOnlyRootFS = true
		k.ends(k.start(sb, spec), 1, runtimeiface.ReasonError)
	}
	spec := k.container("write", "/mnt/new", "x", ";", "write", "/dev/shm/new", "x")
	spec.Security.ReadOnlyRootFS = true
	spec.Mounts = []specs.Mount{bind(dir, "/mnt")}
	k.outputOf(sb, spec)
}

func rootLayers(k *kit) {
	spec := k.container("cat", "/layers/kept", ";", "cat", "/layers/changed", ";", "ls", "/layers", ";", "ls", "/layers/opaque")
	spec.Image = k.image(k.s.Images.Configured)
	k.same(k.outputOf(k.pod(), spec), "lower\nupper\nchanged\nkept\nopaque\nupper\n", "files of two layers")
}
