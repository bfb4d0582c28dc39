package podlifecycle_test

import (
	"context"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

const webManifest = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: web:1
    env:
    - name: COLOUR
      valueFrom: {configMapKeyRef: {name: settings, key: colour}}
    - name: OWN_IP
      valueFrom: {fieldRef: {fieldPath: status.podIP}}
    args: ["--colour=$(COLOUR)"]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: scratch, emptyDir: {}}
`

const settings = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {colour: green}
`

// The parts together: files, source, volumes and hosts files are real, the
// runtime is the fake.
var _ = Describe("a directory of manifests", func() {
	var (
		dir, root string
		fake      *runtimetest.Fake
		m         *podlifecycle.Manager
	)
	write := func(name, text string) {
		GinkgoHelper()
		Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	app := func() (spec []string, args []string, mounts map[string]string) {
		GinkgoHelper()
		all := fake.State().Containers
		Expect(all).To(HaveLen(1))
		_, s, err := fake.Specs(all[0].ID)
		Expect(err).NotTo(HaveOccurred())
		mounts = map[string]string{}
		for _, mount := range s.Mounts {
			mounts[mount.Destination] = mount.Source
		}
		return s.Env, s.Args, mounts
	}
	phase := func() string {
		pod, err := m.Pod("default", "web")
		if err != nil {
			return err.Error()
		}
		return string(pod.Status.Phase)
	}
	BeforeEach(func() {
		leaks := goleak.IgnoreCurrent()
		dir, root = GinkgoT().TempDir(), GinkgoT().TempDir()
		var err error
		fake, err = runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "web:1"}, {Ref: "web:2"}}})
		Expect(err).NotTo(HaveOccurred())
		m, err = podlifecycle.New(podlifecycle.Config{Runtime: fake, Root: root})
		Expect(err).NotTo(HaveOccurred())
		files, err := source.New(source.Config{Path: dir})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		var group errgroup.Group
		group.Go(func() error { return m.Run(ctx) })
		group.Go(func() error { return files.Run(ctx, m.Set) })
		DeferCleanup(func() {
			Expect(m.StopAll(ctx)).To(Succeed())
			Expect(fake.State().Sandboxes).To(BeEmpty())
			cancel()
			Expect(group.Wait()).To(Succeed())
			Expect(filepath.Glob(filepath.Join(root, "pods", "*"))).To(BeEmpty())
			Expect(goleak.Find(leaks)).To(Succeed())
		})
	})

	It("runs pods with what they refer to", func(ctx context.Context) {
		write("settings.yaml", settings)
		write("web.yaml", webManifest)
		Eventually(ctx, phase).Should(Equal("Running"))
		env, args, mounts := app()
		Expect(env).To(ContainElements("COLOUR=green", HavePrefix("OWN_IP=10.88.")))
		Expect(args).To(Equal([]string{"--colour=green"}))
		Expect(mounts).To(And(HaveKey("/settings"), HaveKey("/scratch"), HaveKey("/etc/hosts"), HaveKey("/dev/termination-log")))
		Expect(os.ReadFile(filepath.Join(mounts["/settings"], "colour"))).To(BeEquivalentTo("green"))
		Expect(os.ReadFile(mounts["/etc/hosts"])).To(ContainSubstring("web"))

		By("bringing a new ConfigMap into the volume, without a restart")
		write("settings.yaml", settings+"  \n---\n"+`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"unused"}}`)
		write("settings.yaml", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"red"}}`)
		Eventually(ctx, func() string {
			text, _ := os.ReadFile(filepath.Join(mounts["/settings"], "colour"))
			return string(text)
		}).Should(Equal("red"))
		Expect(fake.State().Containers).To(HaveLen(1))

		By("keeping everything while the file is broken")
		write("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web\n")
		Eventually(ctx, m.Problems).ShouldNot(BeEmpty())
		Consistently(ctx, phase, 100*time.Millisecond).Should(Equal("Running"))

		By("replacing the pod when what cannot change in place changes")
		write("web.yaml", webManifest+"  hostname: other\n")
		Eventually(ctx, func() string {
			all := fake.State().Containers
			if len(all) != 1 {
				return ""
			}
			sandbox, _, _ := fake.Specs(all[0].ID)
			return sandbox.Hostname
		}).Should(Equal("other"))
		Eventually(ctx, phase).Should(Equal("Running"))

		By("ending it when the file goes")
		Expect(os.Remove(filepath.Join(dir, "web.yaml"))).To(Succeed())
		Eventually(ctx, m.Pods).Should(BeEmpty())
	}, NodeTimeout(5*time.Minute))

	It("names file, pod and field of what is missing or wrong", func(ctx context.Context) {
		write("web.yaml", webManifest)
		write("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  containers: [{name: app, image: web:1, imge: x}]\n")
		Eventually(ctx, func() string {
			pod, err := m.Pod("default", "web")
			if err != nil || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
				return ""
			}
			return pod.Status.ContainerStatuses[0].State.Waiting.Message
		}).Should(And(ContainSubstring("web.yaml"), ContainSubstring("default/web"), ContainSubstring("settings"), ContainSubstring("spec.volumes[0]")))
		Eventually(ctx, func() string {
			pod, err := m.Pod("default", "bad")
			if err != nil || pod.Status.Phase != corev1.PodPending {
				return ""
			}
			return pod.Status.Message
		}).Should(And(ContainSubstring("bad.yaml"), ContainSubstring("default/bad"), ContainSubstring("imge")))
		write("settings.yaml", settings)
		Eventually(ctx, phase).Should(Equal("Running"))
	}, NodeTimeout(5*time.Minute))
})
