package rows_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/credential"
	"github.com/nodekit/nodekit/podlifecycle/volume"
)

func init() { rows = append(rows, credentialPlugins, volumePlugins, propagation) }

// provider is a credential plug-in that knows a login while a file is there.
const provider = `#!/bin/sh
cat >/dev/null
test -e "$(dirname "$0")/open" && auth='"*": {"username": "%s", "password": "%s"}'
printf '{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Image", "cacheDuration": "0s", "auth": {%%s}}' "$auth"
`

func (n *node) credentials() podlifecycle.Credentials {
	GinkgoHelper()
	dir := filepath.Join(n.dir, "providers")
	Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
	text := strings.ReplaceAll(fmt.Sprintf(provider, n.images.PrivateAuth.Username, n.images.PrivateAuth.Password), `"*"`, `"`+host(n.images.Private)+`"`)
	Expect(os.WriteFile(filepath.Join(dir, "login"), []byte(text), 0o700)).To(Succeed())
	plugins, err := credential.New(credential.Config{Dir: dir, Providers: []credential.Provider{{Name: "login", MatchImages: []string{host(n.images.Private)}}}})
	Expect(err).NotTo(HaveOccurred())
	return plugins
}

func host(image string) string {
	name, _, _ := strings.Cut(image, "/")
	return name
}

func credentialPlugins(n *node) {
	It("may pull what a plug-in of the node's has the login for", func() {
		open := filepath.Join(n.dir, "providers", "open")
		Expect(os.WriteFile(open, nil, 0o600)).To(Succeed())
		DeferCleanup(func() {
			Expect(os.Remove(open)).To(Succeed())
			n.clear()
			Expect(n.manager.Reclaim(context.Background())).Error().NotTo(HaveOccurred())
			Expect(n.has(n.images.Private)).To(BeFalse())
		})
		n.apply("logged-in", fmt.Sprintf("containers: [{name: app, image: %q, args: [forever]}]", n.images.Private))
		n.untilReady("logged-in")
	})
}

// exports is a volume plug-in: directories that stand for those of a server.
type exports struct{ dir string }

func (e exports) Mount(ctx context.Context, r volume.PluginRequest) error {
	there, err := mountinfo.Mounted(r.Dir)
	if err == nil && !there {
		err = syscall.Mount(filepath.Join(e.dir, r.Volume.NFS.Path), r.Dir, "", syscall.MS_BIND, "")
	}
	if err != nil {
		return err
	}
	return r.GiveToGroup(ctx, r.Volume.NFS.ReadOnly)
}

func (e exports) Unmount(_ context.Context, dir string) error {
	if err := syscall.Unmount(dir, 0); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil // nothing is mounted
}

func volumePlugins(n *node) {
	It("has a volume that a plug-in mounts, and leaves its data there", func() {
		export := filepath.Join(n.dir, "exports", "a")
		Expect(os.MkdirAll(export, 0o755)).To(Succeed())
		volumes := "\n  volumes: [{name: v, nfs: {server: files, path: /%s}}]"
		got := n.prints("network", "append /v/f data ; cat /v/f", fmt.Sprintf(volumes, "a"), "volumeMounts: [{name: v, mountPath: /v}]")
		Expect(got).To(Equal("data"))
		n.clear()
		Expect(os.ReadFile(filepath.Join(export, "f"))).To(BeEquivalentTo("data"))
		n.apply("unserved", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v}]")+"]"+fmt.Sprintf(volumes, "none"))
		Eventually(func() string { return n.tell("unserved") }, patience).Should(ContainSubstring("spec.volumes[0].nfs: volume v: no such file or directory"))
		Expect(os.Mkdir(filepath.Join(n.dir, "exports", "none"), 0o755)).To(Succeed())
		n.untilReady("unserved")
	})
}

func propagation(n *node) {
	It("gives and gets mounts of the node's if it says so, and not otherwise", func() {
		dir := filepath.Join(n.dir, "shared")
		for _, sub := range []string{"", "in", "out"} {
			Expect(os.Mkdir(filepath.Join(dir, sub), 0o755)).To(Succeed())
		}
		Expect(syscall.Mount(dir, dir, "", syscall.MS_BIND, "")).To(Succeed())
		Expect(syscall.Mount("", dir, "", syscall.MS_SHARED, "")).To(Succeed())
		out := filepath.Join(dir, "out")
		DeferCleanup(func() {
			n.clear()
			for _, path := range []string{out, filepath.Join(dir, "in")} {
				_ = syscall.Unmount(path, syscall.MNT_DETACH)
			}
			Expect(syscall.Unmount(dir, syscall.MNT_DETACH)).To(Succeed())
			Expect(os.RemoveAll(dir)).To(Succeed())
		})
		mount := "volumeMounts: [{name: v, mountPath: /v, mountPropagation: %s}]"
		n.apply("mounts", "containers:\n  - "+n.does("gives", "mount /v/in ; write /v/in/f x ; forever", "securityContext: {privileged: true}", fmt.Sprintf(mount, "Bidirectional"))+
			"\n  - "+n.does("gets", "await /v/out/f ; print got ; forever", fmt.Sprintf(mount, "HostToContainer"))+
			"\n  - "+n.does("alone", "await /v/out/f ; print got ; forever", fmt.Sprintf(mount, "None"))+
			"\n  volumes: [{name: v, hostPath: {path: "+dir+"}}]")
		n.untilReady("mounts")
		Eventually(filepath.Join(dir, "in", "f"), patience).Should(BeAnExistingFile())
		Expect(mountinfo.Mounted(filepath.Join(dir, "in"))).To(BeTrue())
		Expect(syscall.Mount("tmpfs", out, "tmpfs", 0, "size=64k")).To(Succeed())
		Expect(os.WriteFile(filepath.Join(out, "f"), nil, 0o644)).To(Succeed())
		Eventually(n.output, patience).WithArguments("mounts", "gets").Should(Equal("got\n"))
		Expect(n.output("mounts", "alone")).To(BeEmpty())
	})
}
