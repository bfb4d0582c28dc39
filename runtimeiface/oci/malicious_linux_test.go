package oci_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("a malicious spec or image", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		Describe("with "+string(program), func() { malicious(program) })
	}
})

// seen describes every file below dir.
func seen(dir string) map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	Expect(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		out[path] = fmt.Sprint(info.Mode(), info.ModTime(), content, ownerOf(path))
		return nil
	})).To(Succeed())
	return out
}

func malicious(program kerneltest.Need) {
	var e *env
	var outside string // what nothing may touch
	var before map[string]string
	BeforeEach(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		e.open()
		e.image = e.pull(e.images.Prog)
		outside = GinkgoT().TempDir()
		Expect(os.Chmod(outside, 0o777)).To(Succeed())
		Expect(os.Mkdir(filepath.Join(outside, "dir"), 0o777)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(outside, "file"), []byte("outside\n"), 0o666)).To(Succeed())
		before = seen(outside)
	})
	AfterEach(func() {
		if before == nil {
			return
		}
		Expect(seen(outside)).To(Equal(before), "nothing outside is touched")
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(outside), "nothing is mounted outside")
	})

	// run starts a container if it can be made, and gives its output.
	run := func(sandbox string, change func(*runtimeiface.ContainerSpec)) (string, error) {
		GinkgoHelper()
		spec := runtimeiface.ContainerSpec{Name: fmt.Sprint("c", pods.Add(1)), Image: e.image, Args: []string{"print", "ran"}, LogPath: "log"}
		spec.LogPath = spec.Name
		change(&spec)
		id, err := e.rt.CreateContainer(e.ctx(), sandbox, spec)
		if err == nil {
			err = e.rt.StartContainer(e.ctx(), id)
		}
		if err != nil {
			return "", err
		}
		return e.log(e.exited(id)), nil
	}
	leads := func() string {
		return e.imageOf(true, link("abs", outside), link("up", "../../../../../.."+outside), link("loop", "loop"), directory("d/"), link("d/abs", outside))
	}
	in := func(change func(sandbox string)) {
		GinkgoHelper()
		for _, kind := range []func(*runtimeiface.SandboxSpec){func(*runtimeiface.SandboxSpec) {}, userNamespace} {
			change(e.sandbox(kind))
		}
	}

	It("mounts nothing through symbolic links of the image", func() {
		e.image = leads()
		source := GinkgoT().TempDir()
		in(func(sb string) {
			for _, at := range []string{"/abs", "/abs/in", "/abs/dir", "/up", "/up/in", "/d/abs/in", "/d/../abs/in", "/../../../abs/in"} {
				for _, m := range []specs.Mount{{Type: "bind", Source: source}, {Type: "tmpfs"}, {Type: "image", Source: e.image}} {
					m.Destination = at
					out, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.Mounts = []specs.Mount{m} })
					Expect(err == nil && out == "ran\n" || err != nil).To(BeTrue(), "%s: %s %v", at, out, err)
				}
			}
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/loop/x"}} })
			Expect(err).To(HaveOccurred())
		})
	})

	It("mounts nothing above the root", func() {
		source := GinkgoT().TempDir()
		sb := e.sandbox()
		for _, at := range []string{"..", "../x", "x", "", "/", "/..", "/x/../.."} {
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) {
				s.Mounts = []specs.Mount{{Type: "bind", Source: source, Destination: at}}
			})
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), "%q", at)
			Expect(err).To(MatchError(ContainSubstring("Mounts[0].Destination")), "%q", at)
		}
		out, err := run(sb, func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "bind", Source: source, Destination: "/../../../../in/../here"}}
			s.Args = strings.Fields("write /here/file x ; print ran")
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(Equal("ran\n"))
		Expect(filepath.Join(source, "file")).To(BeAnExistingFile())
	})

	It("takes none of the backend's own mounts elsewhere", func() {
		for _, name := range []string{"etc", "dev", "proc", "sys"} {
			e.image = e.imageOf(true, link(name, outside))
			in(func(sb string) {
				_, err := run(sb, func(*runtimeiface.ContainerSpec) {})
				_ = err // to be refused is as good as to be kept inside
			})
		}
		e.image = e.imageOf(true, link("etc/resolv.conf", filepath.Join(outside, "file")), link("etc/hostname", filepath.Join(outside, "new")))
		in(func(sb string) {
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.Args = strings.Fields("write /etc/hostname x") })
			Expect(err).NotTo(HaveOccurred())
		})
	})

	It("makes no working directory and masks no path through symbolic links", func() {
		e.image = leads()
		in(func(sb string) {
			for _, dir := range []string{"/abs/made", "/up/made", "/d/abs/made/more", "/../../../abs/made", "/abs"} {
				_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.WorkingDir = dir })
				_ = err // to be refused is as good as to be made inside
			}
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) {
				s.Security.MaskedPaths, s.Security.ReadonlyPaths = []string{"/abs/file", "/up/file"}, []string{"/abs/dir", "/up"}
			})
			_ = err
		})
		_, err := run(e.sandbox(), func(s *runtimeiface.ContainerSpec) { s.Security.MaskedPaths = []string{"/proc/kcore", "/a/../.."} })
		Expect(err).To(MatchError(ContainSubstring("Security.MaskedPaths[1]")))
	})

	It("makes no device outside, and none that is not one", func() {
		e.image = leads()
		sb := e.sandbox()
		null := specs.LinuxDevice{Type: "c", Major: 1, Minor: 3}
		for _, at := range []string{"/abs/null", "/up/null", "/d/abs/file"} {
			d := null
			d.Path = at
			in(func(sb string) {
				_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.Devices = []specs.LinuxDevice{d} })
				_ = err // to be refused is as good as to be made inside
			})
		}
		for field, d := range map[string]specs.LinuxDevice{
			"Devices[0].Path":     {Path: "/dev/../etc/passwd", Type: "c", Major: 1, Minor: 3},
			"Devices[0].Path ":    {Path: "dev/null", Type: "c", Major: 1, Minor: 3},
			"Devices[0].Path  ":   {Path: "/dev/a\nb", Type: "c", Major: 1, Minor: 3},
			"Devices[0].Path   ":  {Path: "/dev/not-there"},
			"Devices[0].Path    ": {Path: "/etc/passwd"},
			"Devices[0].Type":     {Path: "/dev/x", Type: "p"},
			"Devices[0]":          {Path: "/dev/x", Type: "c", Major: 4000, Minor: 4000},
			"Devices[0] ":         {Path: "/dev/x", Type: "b", Major: 1, Minor: 3},
			"Devices[0]  ":        {Path: "/dev/x", Type: "c", Major: -1, Minor: 1 << 40},
		} {
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.Devices = []specs.LinuxDevice{d} })
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), "%v", d)
			Expect(err).To(MatchError(ContainSubstring(strings.TrimSpace(field))), "%v", d)
		}
	})

	It("writes no log through what a container planted among the logs", func() {
		sb := e.sandbox()
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		logs := filepath.Join(e.logs, s.UID)
		plant := map[string]func(string) error{
			"link":     func(p string) error { return os.Symlink(filepath.Join(outside, "file"), p) },
			"dangling": func(p string) error { return os.Symlink(filepath.Join(outside, "new"), p) },
			"up":       func(p string) error { return os.Symlink("../../../../../../.."+outside+"/file", p) },
			"fifo":     func(p string) error { return unix.Mkfifo(p, 0o666) },
			"device":   func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))) },
			"dir":      func(p string) error { return os.Mkdir(p, 0o777) },
		}
		for name, f := range plant {
			Expect(f(filepath.Join(logs, name))).To(Succeed())
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.LogPath = name })
			Expect(err).To(HaveOccurred(), name)
			// Now while a container has its log open.
			id := e.start(sb, "late-"+name, "forever", func(s *runtimeiface.ContainerSpec) { s.LogPath = "late-" + name })
			Expect(os.Remove(filepath.Join(logs, "late-"+name))).To(Succeed())
			Expect(f(filepath.Join(logs, "late-"+name))).To(Succeed())
			Expect(e.rt.ReopenLog(e.ctx(), id)).NotTo(Succeed(), name)
			Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
		}
		Expect(os.Symlink(outside, filepath.Join(logs, "parent"))).To(Succeed())
		for _, path := range []string{"parent/log", "parent/dir/log", "parent/made/log", "../x", "/x", "a/../../x", ".", "a\x00b"} {
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) { s.LogPath = path })
			Expect(err).To(HaveOccurred(), "%q", path)
		}
	})

	It("shows no volume that is not there, and waits for none", func() {
		sb := e.sandbox()
		loop := filepath.Join(GinkgoT().TempDir(), "loop")
		Expect(os.Symlink("loop", loop)).To(Succeed())
		for _, source := range []string{loop, loop + "/x", "/proc/1/fd/none", "relative", "", "/a\x00b", "/" + strings.Repeat("x/", 4000)} {
			_, err := run(sb, func(s *runtimeiface.ContainerSpec) {
				s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/t"}, {Type: "bind", Source: source, Destination: "/vol"}}
			})
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), "%.20q", source)
			Expect(err).To(MatchError(ContainSubstring("Mounts[1].Source")), "%.20q", source)
		}
		Expect(filepath.Glob(filepath.Join(e.cfg.Root, "images/containers/*"))).To(BeEmpty(), "a failed call leaves nothing")
	})

	It("reads no user from outside the image", func() {
		passwd := filepath.Join(outside, "file")
		Expect(os.WriteFile(passwd, []byte("mallory:x:4711:4711::/:/\n"), 0o666)).To(Succeed())
		before = seen(outside)
		e.image = e.imageOf(true, link("etc/passwd", passwd), link("etc/group", passwd), tar.Header{Name: "etc/x", Typeflag: tar.TypeFifo, Mode: 0o666})
		uid := int64(4711)
		out, err := run(e.sandbox(), func(s *runtimeiface.ContainerSpec) { s.Security.RunAsUser, s.Args = &uid, []string{"ids"} })
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(Equal("4711 0\n"), "the group would be 4711")
	})

	It("has no file of the node among its streams to change the mode of", func() {
		sb := e.sandbox()
		text := e.log(e.exited(e.start(sb, "app", "link /proc/self/fd/0 ; link /proc/self/fd/1 ; link /proc/self/fd/2")))
		Expect(strings.Fields(text)).To(HaveEach(HavePrefix("pipe:")))
		var out bytes.Buffer
		code, err := e.rt.Exec(e.ctx(), e.start(sb, "kept", "forever"), runtimeiface.ExecSpec{
			Command: []string{"/prog", "link", "/proc/self/fd/0", ";", "stdin"}, Stdout: &out,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero())
		Expect(strings.Fields(out.String())).To(HaveExactElements(HavePrefix("pipe:")))
	})

	It("gives the OCI runtime no orders by annotations", func() {
		hook := filepath.Join(outside, "new")
		out, err := run(e.sandbox(), func(s *runtimeiface.ContainerSpec) {
			s.Annotations = map[string]string{
				"run.oci.hooks.stdout": hook, "run.oci.hooks.stderr": hook, "run.oci.handler": "krun",
				"run.oci.seccomp_bpf_data": "AAAA", "org.systemd.property.ExecStartPre": "'x'",
			}
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(Equal("ran\n"))
	})
}

var _ = Describe("a huge call", func() {
	It("is told by field, before anything is made", func() {
		e := newEnv(GinkgoTB())
		sb := e.sandbox()
		for _, n := range []int{400, 1 << 17} {
			list := make([]runtimeiface.ContainerSpec, n)
			for i := range list {
				list[i] = runtimeiface.ContainerSpec{Name: fmt.Sprint("c", i), Image: e.image}
			}
			_, err := e.rt.RunContainers(e.ctx(), sb, list)
			Expect(err).To(MatchError(runtimeiface.ErrInvalid))
			Expect(err).To(MatchError(ContainSubstring("specs ")))
		}
		all, err := e.rt.ListContainers(e.ctx(), runtimeiface.ContainerFilter{})
		Expect(err).NotTo(HaveOccurred())
		Expect(all).To(BeEmpty())

		id := e.start(sb, "app", "forever")
		for field, r := range map[string]specs.LinuxResources{
			"Resources.Unified[../../cgroup.procs]": {Unified: map[string]string{"../../cgroup.procs": "1"}},
			"Resources.Unified":                     {Unified: map[string]string{"a": strings.Repeat("x", 1<<20)}},
			"resources":                             {Unified: map[string]string{"memory.x": strings.Repeat("<", 60<<10)}},
			"Resources.BlockIO":                     {BlockIO: &specs.LinuxBlockIO{WeightDevice: make([]specs.LinuxWeightDevice, 1<<20)}},
		} {
			err := e.rt.UpdateContainer(e.ctx(), id, r)
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), field)
			Expect(err).To(MatchError(ContainSubstring(field+" ")), field)
			Expect(len(err.Error())).To(BeNumerically("<", 4096), field)
		}
		_, err = e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", strings.Repeat("x", 1<<20)}})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("Command[1]")))
		// The most that is taken goes through.
		c := e.exited(e.start(sb, "large", "print ran", func(s *runtimeiface.ContainerSpec) {
			for i := range 12 {
				s.Env = append(s.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 100<<10)))
			}
		}))
		Expect(e.log(c)).To(Equal("ran\n"))
	})
})
