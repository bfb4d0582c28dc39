package rows_test

import (
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
)

func init() { rows = append(rows, owners, hostPaths) }

func owners(n *node) {
	It("has the files of a volume given to its group always, or only if the volume's root is not", func() {
		export := filepath.Join(n.dir, "exports", "owned")
		file := filepath.Join(export, "sub", "f")
		Expect(os.MkdirAll(filepath.Dir(file), 0o750)).To(Succeed())
		Expect(os.WriteFile(file, []byte("data"), 0o600)).To(Succeed())
		Expect(os.Chmod(export, 0o755)).To(Succeed())
		reads := func(name, policy string) string {
			GinkgoHelper()
			return n.prints(name, "run cat /v/sub/f", "\n  securityContext: {runAsUser: 1000, fsGroup: 4321, fsGroupChangePolicy: "+policy+"}\n  volumes: [{name: v, nfs: {server: files, path: /owned}}]",
				"volumeMounts: [{name: v, mountPath: /v}]")
		}
		forget := func() {
			GinkgoHelper()
			n.clear()
			Expect(os.Chown(file, 0, 0)).To(Succeed())
			Expect(os.Chmod(file, 0o600)).To(Succeed())
		}
		Expect(reads("all", "OnRootMismatch")).To(ContainSubstring("dataexit 0\n"), "the root was not the group's")
		forget()
		Expect(reads("root", "OnRootMismatch")).To(ContainSubstring("exit 1\n"), "the root was")
		forget()
		Expect(reads("always", "Always")).To(ContainSubstring("dataexit 0\n"))
	})

	It("has the groups that its image gives its user, unless it says that its own are all", func() {
		const user = "\n  securityContext: {runAsUser: 1000, supplementalGroups: [7777]%s}"
		Expect(n.prints("merged", "ids", fmt.Sprintf(user, ""))).To(And(HavePrefix("1000 1000"), ContainSubstring(" 7777"), ContainSubstring(" 1001")))
		Expect(n.prints("strict", "ids", fmt.Sprintf(user, ", supplementalGroupsPolicy: Strict"))).To(And(HavePrefix("1000 1000"), ContainSubstring(" 7777"), Not(ContainSubstring(" 1001"))))
	})

	It("has the SELinux label that it asks for, which is none where the kernel has none", func() {
		const label = "securityContext: {seLinuxOptions: {type: container_t, level: \"s0:c12,c34\"}}"
		steps := "run cat /proc/self/attr/current"
		_, err := os.Stat("/sys/fs/selinux/enforce")
		switch here := err == nil; {
		case here && n.name == "oci":
			n.apply("label", "containers: ["+n.does("app", steps, label)+"]")
			Eventually(n.tell, patience).WithArguments("label").Should(ContainSubstring("Security.SELinux"))
		case here:
			Expect(n.prints("label", steps, "", label)).To(ContainSubstring("s0:c12,c34"))
		default:
			Expect(n.prints("label", steps, "", label)).NotTo(ContainSubstring("s0:c12,c34"))
		}
		n.write("labels.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: labels}\nspec:\n  securityContext: {seLinuxChangePolicy: Recursive}\n  containers: ["+n.does("app", "forever")+"]\n")
		pod := n.until("labels", func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.Reason).To(Equal(podlifecycle.ReasonInvalid)) })
		Expect(pod.Status.Message).To(ContainSubstring("spec.securityContext.seLinuxChangePolicy"))
	})
}

func hostPaths(n *node) {
	for kind, c := range map[string]struct{ path, want string }{
		"Directory": {"dir", "exit 0\n"}, "DirectoryOrCreate": {"made/dir", "exit 0\n"},
		"File": {"file", "exit 0\n"}, "FileOrCreate": {"made-file", "exit 0\n"}, "CharDevice": {"/dev/null", "exit 0\n"}, `""`: {"dir", "exit 0\n"},
	} {
		It("has a path of the node's that is of type "+kind, func() {
			dir := n.hostDir()
			path := c.path
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			Expect(n.prints("typed", "run owner /v", "\n  volumes: [{name: v, hostPath: {path: "+path+", type: "+kind+"}}]",
				"volumeMounts: [{name: v, mountPath: /v}]")).To(ContainSubstring(c.want))
		})
	}

	for kind, path := range map[string]string{"Directory": "file", "File": "dir", "Socket": "file", "BlockDevice": "file", "CharDevice": "file"} {
		It("waits for a path of the node's until that is of type "+kind, func() {
			dir := n.hostDir()
			n.apply("mistyped", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v}]")+"]\n  volumes: [{name: v, hostPath: {path: "+filepath.Join(dir, path)+", type: "+kind+"}}]")
			Eventually(n.tell, patience).WithArguments("mistyped").Should(ContainSubstring("spec.volumes[0].hostPath"))
			Expect(n.pod("mistyped").Status.Phase).To(Equal(corev1.PodPending))
		})
	}

	It("cannot leave a volume by a link in it", func() {
		dir := n.hostDir()
		Expect(os.Symlink("/etc", filepath.Join(dir, "out"))).To(Succeed())
		n.apply("escapes", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v, subPath: out}]")+"]\n  volumes: [{name: v, hostPath: {path: "+dir+"}}]")
		Eventually(n.tell, patience).WithArguments("escapes").Should(ContainSubstring("leaves its volume"))
		Expect(n.pod("escapes").Status.Phase).To(Equal(corev1.PodPending))
	})
}

// hostDir is a directory of the node's with a directory and a file in it, until
// the spec ends.
func (n *node) hostDir() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp(n.dir, "host-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		n.clear()
		Expect(os.RemoveAll(dir)).To(Succeed())
	})
	Expect(os.Chmod(dir, 0o755)).To(Succeed())
	Expect(os.Mkdir(filepath.Join(dir, "dir"), 0o755)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)).To(Succeed())
	return dir
}
