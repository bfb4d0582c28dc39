package oci_test

import (
	"fmt"
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

var _ = Describe("devices and filters", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		Describe("of "+string(program), func() { devices(program) })
	}
})

func devices(program kerneltest.Need) {
	var e *env
	BeforeEach(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		e.open()
		e.image = e.pull(e.images.Prog)
	})
	code := func(sandbox, steps string, change ...func(*runtimeiface.ContainerSpec)) (int, string) {
		GinkgoHelper()
		c := e.exited(e.start(sandbox, fmt.Sprint("c", pods.Add(1)), steps, change...))
		return int(c.ExitCode), c.Message + e.log(c)
	}

	for name, change := range map[string]func(*runtimeiface.SandboxSpec){
		"on the node": func(*runtimeiface.SandboxSpec) {}, "in a user namespace": userNamespace,
	} {
		It("can be used as asked for, "+name, func() {
			sb := e.sandbox(change)
			major, minor, mode, id := int64(1), int64(3), os.FileMode(0o640), uint32(7)
			device := func(rules ...specs.LinuxDeviceCgroup) func(*runtimeiface.ContainerSpec) {
				return func(s *runtimeiface.ContainerSpec) {
					s.Devices = []specs.LinuxDevice{
						{Path: "/dev/mine/null", Type: "c", Major: major, Minor: minor, FileMode: &mode, UID: &id, GID: &id},
						{Path: "/dev/kmsg"},
					}
					s.Resources = &specs.LinuxResources{Devices: rules}
				}
			}
			id1 := e.start(sb, "sees", "forever", device())
			var st unix.Stat_t
			root := fmt.Sprintf("/proc/%d/root", e.status(id1).PID)
			Expect(unix.Lstat(root+"/dev/mine/null", &st)).To(Succeed())
			Expect(unix.Major(st.Rdev)).To(BeEquivalentTo(1))
			Expect(st.Mode & 0o777).To(BeEquivalentTo(0o640))
			var top unix.Stat_t
			Expect(unix.Lstat(root+"/", &top)).To(Succeed())
			Expect([]uint32{st.Uid - top.Uid, st.Gid - top.Gid}).To(Equal([]uint32{7, 7}), "its owner as seen from within")
			Expect(unix.Lstat(root+"/dev/kmsg", &st)).To(Succeed())
			Expect(unix.Minor(st.Rdev)).To(BeEquivalentTo(11), "the node's of that name")

			code1, said := code(sb, "append /dev/mine/null x ; cat /dev/mine/null ; append /dev/null x", device())
			Expect(code1).To(BeZero(), said)
		})
	}

	It("can be used no more than rules say", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Devices)
		sb := e.sandbox()
		// A device that the OCI runtime allows to nobody by itself.
		var st unix.Stat_t
		Expect(unix.Stat("/dev/kmsg", &st)).To(Succeed())
		major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		rule := func(allow bool, access string) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: &major, Minor: &minor, Access: access}
		}
		allowed := func(rules ...specs.LinuxDeviceCgroup) string {
			id := e.start(sb, fmt.Sprint("c", pods.Add(1)), "forever", func(s *runtimeiface.ContainerSpec) {
				s.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: major, Minor: minor}}
				s.Resources = &specs.LinuxResources{Devices: rules}
			})
			data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/devices", e.status(id).Cgroup, "devices.list"))
			Expect(err).NotTo(HaveOccurred())
			for line := range strings.Lines(string(data)) {
				if access, ok := strings.CutPrefix(line, fmt.Sprintf("c %d:%d ", major, minor)); ok {
					return strings.TrimSpace(access)
				}
			}
			return ""
		}
		Expect(allowed()).To(Equal("rwm"))
		Expect(allowed(rule(true, "r"))).To(Equal("r"))
		Expect(allowed(rule(true, "rw"))).To(Equal("rw"))
		Expect(allowed(rule(false, "rwm"))).To(BeEmpty())
	})

	It("are all of the node's for a privileged container", func() {
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
		_, err := e.rt.CreateContainer(e.ctx(), e.sandbox(), runtimeiface.ContainerSpec{
			Name: "app", Image: e.image, Security: runtimeiface.Security{Privileged: true},
		})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("Security.Privileged")))
		n, said := code(sb, "cat /dev/zero-of-mine-is-null ; append /dev/kmsg-of-mine x", func(s *runtimeiface.ContainerSpec) {
			s.Security.Privileged = true
			s.Devices = []specs.LinuxDevice{
				{Path: "/dev/zero-of-mine-is-null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/kmsg-of-mine", Type: "c", Major: 1, Minor: 3},
			}
		})
		Expect(n).To(BeZero(), said)
	})

	It("take a profile from a file, and say what is wrong with it", func() {
		dir := GinkgoT().TempDir()
		file := func(name, text string) string {
			path := filepath.Join(dir, name)
			Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
			return path
		}
		fifo := filepath.Join(dir, "fifo")
		Expect(unix.Mkfifo(fifo, 0o600)).To(Succeed())
		sb := e.sandbox()
		for _, path := range []string{
			filepath.Join(dir, "missing"), dir, fifo, "/dev/zero", file("text", "not json"), file("cut", `{"defaultAction": "SCMP_ACT_ALLOW"`),
			file("empty", "{}"), file("action", `{"defaultAction": "SCMP_ACT_MAYBE"}`), file("big", strings.Repeat(" ", 2<<20)),
			file("call", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO"}]}`),
			file("listener", `{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}`),
		} {
			_, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "app", Image: e.image, Security: runtimeiface.Security{
				Seccomp: runtimeiface.SeccompLocalhost, SeccompProfile: path,
			}})
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), path)
			Expect(err).To(MatchError(And(ContainSubstring("Security.SeccompProfile"), ContainSubstring(path))))
		}
		good := file("good", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chown", "fchownat", "lchown"], "action": "SCMP_ACT_ERRNO"}]}`)
		filtered := func(s *runtimeiface.ContainerSpec) {
			s.Security.Seccomp, s.Security.SeccompProfile = runtimeiface.SeccompLocalhost, good
		}
		n, said := code(sb, "write /x y ; cat /x", filtered)
		Expect(n).To(BeZero(), said)
		n, said = code(sb, "write /x y ; chown /x 1 1", filtered)
		Expect(n).To(Equal(1))
		Expect(said).To(ContainSubstring("operation not permitted"))
	})

	It("mask and keep from writing what is asked for", func() {
		sb := e.sandbox()
		paths := func(masked, readonly []string) func(*runtimeiface.ContainerSpec) {
			return func(s *runtimeiface.ContainerSpec) {
				s.Security.MaskedPaths, s.Security.ReadonlyPaths = masked, readonly
			}
		}
		n, said := code(sb, "cat /etc/passwd ; ls /layers ; print end", paths([]string{"/etc/passwd", "/layers", "/missing"}, nil))
		Expect(n).To(BeZero())
		Expect(said).To(Equal("end\n"))
		n, said = code(sb, "append /etc/passwd x", paths(nil, []string{"/etc", "/missing"}))
		Expect(n).To(Equal(1))
		Expect(said).To(ContainSubstring("read-only file system"))
		n, said = code(sb, "append /etc/passwd x ; cat /proc/keys", paths([]string{}, []string{}))
		Expect(n).To(BeZero(), said)
		for field, change := range map[string]func(*runtimeiface.ContainerSpec){
			"Security.MaskedPaths[0]": paths([]string{"relative"}, nil), "Security.ReadonlyPaths[1]": paths(nil, []string{"/a", "/b/../c"}),
		} {
			spec := runtimeiface.ContainerSpec{Name: "app", Image: e.image}
			change(&spec)
			_, err := e.rt.CreateContainer(e.ctx(), sb, spec)
			Expect(err).To(MatchError(runtimeiface.ErrInvalid))
			Expect(err).To(MatchError(ContainSubstring(field)))
		}
	})
}
