package source_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
)

func podYAML(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: app, image: 'app:1'" + spec + "}]}\n"
}

var _ = Describe("a directory", func() {
	var path string
	var dir *source.Directory

	write := func(name, content string) {
		GinkgoHelper()
		Expect(os.WriteFile(filepath.Join(path, name), []byte(content), 0o600)).To(Succeed())
	}
	names := func(set source.Set) []string {
		var result []string
		for _, pod := range set.Pods {
			result = append(result, pod.Namespace+"/"+pod.Name)
		}
		return result
	}
	problems := func(set source.Set) []string {
		var result []string
		for _, problem := range set.Problems {
			result = append(result, problem.Error())
		}
		return result
	}

	BeforeEach(func() {
		path = GinkgoT().TempDir()
		var err error
		dir, err = source.New(source.Config{Path: path, NodeName: "n1"})
		Expect(err).NotTo(HaveOccurred())
	})

	Describe("New", func() {
		It("reports all bad fields together", func() {
			_, err := source.New(source.Config{NodeName: "N_1", Reread: -1})
			Expect(err).To(MatchError(And(ContainSubstring("Path is required"), ContainSubstring("NodeName"), ContainSubstring("Reread"))))
		})
	})

	Describe("Read", func() {
		It("gives whole sets of all kinds, sorted by file", func() {
			write("b.yaml", podYAML("b", ""))
			write("a.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"shop"},"spec":{"containers":[{"name":"a","image":"a"}]}}`)
			write("c", "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: x}}\n---\n"+
				"{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {a: x}}\n---\n"+
				"{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: None}}\n---\n"+
				"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: []}")
			set := dir.Read()
			Expect(problems(set)).To(BeEmpty())
			Expect(set.Broken).To(BeEmpty())
			Expect(names(set)).To(Equal([]string{"shop/a-n1", "default/b-n1"}))
			Expect(set.ConfigMap("default", "settings").Data).To(HaveKeyWithValue("a", "x"))
			Expect(set.ConfigMap("shop", "settings")).To(BeNil())
			Expect(set.Secret("default", "login").Data).To(HaveKey("a"))
			Expect(set.Secret("default", "none")).To(BeNil())
			Expect(set.Services).To(HaveLen(1))
			Expect(set.EndpointSlices).To(HaveLen(1))

			pod := set.Pods[1]
			Expect(pod.Spec.NodeName).To(Equal("n1"))
			Expect(pod.Annotations).To(And(HaveKeyWithValue(source.AnnotationSource, "file"), HaveKeyWithValue(source.AnnotationFile, "b.yaml")))
			Expect(pod.Annotations[source.AnnotationHash]).To(HaveLen(32))
			Expect(pod.Spec.Containers[0].TerminationMessagePath).NotTo(BeEmpty(), "defaulted")
		})

		It("takes pods with volumes for which there is a plug-in", func() {
			write("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}], volumes: [{name: v, nfs: {server: s, path: /}}]}\n")
			Expect(problems(dir.Read())).To(ConsistOf(ContainSubstring("spec.volumes[0].nfs")))
			with, err := source.New(source.Config{Path: path, VolumePlugins: []string{"nfs"}})
			Expect(err).NotTo(HaveOccurred())
			Expect(names(with.Read())).To(Equal([]string{"default/a"}))
		})

		It("leaves backup files, hidden files and directories alone", func() {
			for _, name := range []string{".hidden.yaml", "web.yaml~", ".web.yaml.swp", "web.swp", "#web.yaml#"} {
				write(name, "not: [a manifest")
			}
			Expect(os.Mkdir(filepath.Join(path, "sub"), 0o700)).To(Succeed())
			Expect(os.Symlink(filepath.Join(path, "sub"), filepath.Join(path, "link"))).To(Succeed())
			set := dir.Read()
			Expect(problems(set)).To(BeEmpty())
			Expect(names(set)).To(BeEmpty())
		})

		It("names file, pod and field of what is wrong, and keeps the rest", func() {
			write("good.yaml", podYAML("good", ""))
			write("broken.yaml", "a: [\n")
			write("unknown.yaml", podYAML("u", ", imag: x"))
			write("invalid.yaml", podYAML("i", ", ports: [{containerPort: 80}, {containerPort: 0}]"))
			write("unsupported.yaml", podYAML("h", ", volumeDevices: [{name: d, devicePath: /dev/d}]"))
			write("clash.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: c}\nspec: {hostNetwork: true, containers: [{name: a, image: a, ports: [{containerPort: 80}, {containerPort: 80}]}]}\n")
			set := dir.Read()
			Expect(names(set)).To(Equal([]string{"default/good-n1"}))
			Expect(problems(set)).To(Equal([]string{
				"broken.yaml: document 1: cannot be parsed as YAML: line 1: did not find expected node content",
				`clash.yaml: Pod default/c-n1: spec.containers[0].ports[1].hostPort: Duplicate value: 80: taken by spec.containers[0].ports[0]`,
				"invalid.yaml: Pod default/i-n1: spec.containers[0].ports[1].containerPort: Required value",
				"unknown.yaml: document 1: Pod default/u: spec.containers[0].imag: unknown field",
				`unsupported.yaml: Pod default/h-n1: spec.containers[0].volumeDevices: Unsupported value: block devices are not given to containers`,
			}))
			Expect(set.Broken).To(Equal([]string{"broken.yaml", "clash.yaml", "invalid.yaml", "unknown.yaml", "unsupported.yaml"}))
		})

		It("keeps what it knew of a file that turns bad", func() {
			write("web.yaml", podYAML("one", "")+"---\n"+podYAML("two", ""))
			before := dir.Read()
			Expect(names(before)).To(Equal([]string{"default/one-n1", "default/two-n1"}))
			write("web.yaml", podYAML("one", ", imag: x")+"---\n"+podYAML("two", ", command: [new]"))
			set := dir.Read()
			Expect(names(set)).To(ConsistOf("default/one-n1", "default/two-n1"))
			Expect(set.Broken).To(Equal([]string{"web.yaml"}))
			for _, pod := range set.Pods {
				if pod.Name == "two-n1" {
					Expect(pod.Spec.Containers[0].Command).To(Equal([]string{"new"}), "the good document counts")
				} else {
					Expect(pod.UID).To(Equal(before.Pods[0].UID))
				}
			}
			write("web.yaml", "a: [\n")
			Expect(names(dir.Read())).To(HaveLen(2))
			write("web.yaml", podYAML("two", ""))
			set = dir.Read()
			Expect(names(set)).To(Equal([]string{"default/two-n1"}))
			Expect(set.Problems).To(BeEmpty())
		})

		It("keeps what it knew of a file that is emptied, until it is deleted or filled", func() {
			write("a.yaml", podYAML("a", ""))
			Expect(names(dir.Read())).To(ConsistOf("default/a-n1"))
			write("a.yaml", " \n")
			set := dir.Read()
			Expect(names(set)).To(ConsistOf("default/a-n1"))
			Expect(set.Broken).To(ConsistOf("a.yaml"))
			Expect(set.Problems).To(HaveLen(1))
			Expect(errors.Is(set.Problems[0].Err, source.ErrEmptied)).To(BeTrue())
			Expect(names(dir.Read())).To(ConsistOf("default/a-n1"), "also when it is read again")
			write("a.yaml", podYAML("b", ""))
			Expect(names(dir.Read())).To(ConsistOf("default/b-n1"))
			write("a.yaml", "# none for now\n")
			Expect(names(dir.Read())).To(BeEmpty(), "a text without objects is meant so")
			write("a.yaml", "")
			Expect(problems(dir.Read())).To(BeEmpty(), "nothing was in it")
		})

		It("ends what was in a file that is gone", func() {
			write("a.yaml", podYAML("a", ""))
			Expect(dir.Read().Pods).To(HaveLen(1))
			Expect(os.Remove(filepath.Join(path, "a.yaml"))).To(Succeed())
			Expect(dir.Read().Pods).To(BeEmpty())
		})

		It("tells of objects that are there twice", func() {
			write("a.yaml", podYAML("web", ""))
			write("b.yaml", podYAML("web", ", command: [b]")+"---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: web}}")
			write("c.yaml", strings.Replace(podYAML("x", ""), "name: x", "name: x, uid: u", 1)+"---\n"+strings.Replace(podYAML("z", ""), "name: z", "name: z, uid: u", 1))
			set := dir.Read()
			Expect(names(set)).To(Equal([]string{"default/web-n1", "default/x-n1"}))
			Expect(set.Pods[0].Spec.Containers[0].Command).To(BeEmpty())
			Expect(set.ConfigMaps).To(HaveLen(1), "another kind may have the name")
			Expect(problems(set)).To(Equal([]string{
				"b.yaml: Pod default/web-n1: metadata.name: Pod default/web-n1 is in a.yaml already: duplicate",
				"c.yaml: Pod default/z-n1: metadata.uid: UID u is in c.yaml already: duplicate",
			}))
			Expect(errors.Is(set.Problems[0], source.ErrDuplicate)).To(BeTrue())
		})

		It("has no pods and a problem while the directory is missing", func() {
			write("a.yaml", podYAML("a", ""))
			Expect(dir.Read().Pods).To(HaveLen(1))
			Expect(os.RemoveAll(path)).To(Succeed())
			set := dir.Read()
			Expect(set.Pods).To(BeEmpty())
			Expect(set.Broken).To(Equal([]string{"."}))
		})

		It("keeps all while the directory cannot be read", func() {
			write("a.yaml", podYAML("a", ""))
			Expect(dir.Read().Pods).To(HaveLen(1))
			Expect(os.Rename(path, path+".away")).To(Succeed())
			DeferCleanup(os.RemoveAll, path+".away")
			Expect(os.WriteFile(path, nil, 0o600)).To(Succeed()) // ENOTDIR
			set := dir.Read()
			Expect(set.Pods).To(HaveLen(1))
			Expect(set.Broken).To(Equal([]string{"."}))
		})

		It("follows links to files, but reads no devices", func() {
			write("a.yaml", podYAML("a", ""))
			other := GinkgoT().TempDir()
			Expect(os.WriteFile(filepath.Join(other, "real"), []byte(podYAML("l", "")), 0o600)).To(Succeed())
			Expect(os.Symlink(filepath.Join(other, "real"), filepath.Join(path, "link.yaml"))).To(Succeed())
			Expect(os.Symlink("/dev/zero", filepath.Join(path, "zero.yaml"))).To(Succeed())
			Expect(os.Symlink("/none", filepath.Join(path, "nowhere.yaml"))).To(Succeed())
			set := dir.Read()
			Expect(names(set)).To(Equal([]string{"default/a-n1", "default/l-n1"}))
			Expect(set.Broken).To(Equal([]string{"nowhere.yaml", "zero.yaml"}))
		})
	})

	Describe("a pod's UID", func() {
		uid := func(content string) types.UID {
			GinkgoHelper()
			write("web.yaml", content)
			set := dir.Read()
			Expect(problems(set)).To(BeEmpty())
			Expect(set.Pods).To(HaveLen(1))
			return set.Pods[0].UID
		}
		const base = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: 'app:1'}]}\n"

		DescribeTable("stays with edits that kubectl apply makes in place",
			func(edited string) {
				first := uid(base)
				hash := dir.Read().Pods[0].Annotations[source.AnnotationHash]
				Expect(uid(edited)).To(Equal(first))
				if edited != base {
					Expect(dir.Read().Pods[0].Annotations[source.AnnotationHash]).NotTo(Equal(hash))
				}
			},
			Entry("image", strings.Replace(base, "app:1", "app:latest", 1)),
			Entry("labels", strings.Replace(base, "name: web", "name: web, labels: {a: b}, annotations: {c: d}", 1)),
			Entry("deadline", strings.Replace(base, "spec: {", "spec: {activeDeadlineSeconds: 5, ", 1)),
			Entry("tolerations", strings.Replace(base, "spec: {", "spec: {tolerations: [{operator: Exists}], ", 1)),
		)
		DescribeTable("is another after other edits",
			func(from, to string) {
				first := uid(base)
				Expect(uid(strings.Replace(base, from, to, 1))).NotTo(Equal(first))
			},
			Entry("command", "image: 'app:1'", "image: 'app:1', command: [x]"),
			Entry("name", "name: web", "name: web2"),
			Entry("namespace", "name: web", "name: web, namespace: shop"),
			Entry("volume", "spec: {", "spec: {volumes: [{name: v}], "),
			Entry("grace", "spec: {", "spec: {terminationGracePeriodSeconds: 5, "),
			Entry("false instead of nothing", "spec: {", "spec: {enableServiceLinks: false, "),
		)
		It("is the same for the same text written otherwise", func() {
			first := uid(base)
			Expect(uid(`{"kind":"Pod","apiVersion":"v1","spec":{"volumes":[],"containers":[{"image":"app:1","name":"app","resources":{}}]},"metadata":{"name":"web"}}`)).To(Equal(first))
		})
		It("differs by node and file, and is what the manifest says if it says so", func() {
			first := uid(base)
			other, err := source.New(source.Config{Path: path, NodeName: "n2"})
			Expect(err).NotTo(HaveOccurred())
			Expect(other.Read().Pods[0].UID).NotTo(Equal(first))
			Expect(os.Rename(filepath.Join(path, "web.yaml"), filepath.Join(path, "w.yaml"))).To(Succeed())
			Expect(dir.Read().Pods[0].UID).NotTo(Equal(first))
			Expect(os.Remove(filepath.Join(path, "w.yaml"))).To(Succeed())
			Expect(uid(strings.Replace(base, "name: web", "name: web, uid: abc", 1))).To(Equal(types.UID("abc")))
			Expect(string(first)).To(MatchRegexp(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`))
		})
	})

	Describe("Run", func() {
		var mu sync.Mutex
		var sets []source.Set
		latest := func() []string {
			mu.Lock()
			defer mu.Unlock()
			if len(sets) == 0 {
				return nil
			}
			return append([]string{}, names(sets[len(sets)-1])...)
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(sets)
		}
		start := func(config source.Config) {
			GinkgoHelper()
			ignore := goleak.IgnoreCurrent()
			sets = nil
			dir, err := source.New(config)
			Expect(err).NotTo(HaveOccurred())
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				done <- dir.Run(ctx, func(set source.Set) {
					mu.Lock()
					defer mu.Unlock()
					sets = append(sets, set)
				})
			}()
			DeferCleanup(func() {
				cancel()
				Eventually(done).Should(Receive(BeNil()))
				Expect(goleak.Find(ignore)).To(Succeed())
			})
		}

		It("gives a first set at once, even if it is empty, and each change", func(ctx context.Context) {
			start(source.Config{Path: path, Reread: time.Hour})
			Eventually(ctx, count).Should(Equal(1))
			Expect(latest()).To(BeEmpty())
			write("a.yaml", podYAML("a", ""))
			Eventually(ctx, latest).Should(Equal([]string{"default/a"}))
			write(".b.tmp", podYAML("b", ""))
			Expect(os.Rename(filepath.Join(path, ".b.tmp"), filepath.Join(path, "b.yaml"))).To(Succeed())
			Eventually(ctx, latest).Should(Equal([]string{"default/a", "default/b"}))
			Expect(os.Remove(filepath.Join(path, "a.yaml"))).To(Succeed())
			Eventually(ctx, latest).Should(Equal([]string{"default/b"}))
		}, NodeTimeout(5*time.Minute))

		It("reads a file that is written slowly as one", func(ctx context.Context) {
			start(source.Config{Path: path, Reread: time.Hour})
			Eventually(ctx, count).Should(Equal(1))
			f, err := os.Create(filepath.Join(path, "a.yaml"))
			Expect(err).NotTo(HaveOccurred())
			for _, line := range strings.SplitAfter(podYAML("a", ""), "\n") {
				_, err = f.WriteString(line)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(f.Close()).To(Succeed())
			Eventually(ctx, latest).Should(Equal([]string{"default/a"}))
		}, NodeTimeout(5*time.Minute))

		It("waits for a directory that is not there, and for one that is replaced", func(ctx context.Context) {
			later := filepath.Join(path, "later")
			start(source.Config{Path: later, Reread: 20 * time.Millisecond})
			Eventually(ctx, count).Should(Equal(1))
			Expect(os.Mkdir(later, 0o700)).To(Succeed())
			write("later/a.yaml", podYAML("a", ""))
			Eventually(ctx, latest).Should(Equal([]string{"default/a"}))
			Expect(os.RemoveAll(later)).To(Succeed())
			Eventually(ctx, latest).Should(BeEmpty())
			Expect(os.Mkdir(later, 0o700)).To(Succeed())
			write("later/b.yaml", podYAML("b", ""))
			Eventually(ctx, latest).Should(Equal([]string{"default/b"}))
		}, NodeTimeout(5*time.Minute))

		It("says nothing when nothing changed", func(ctx context.Context) {
			write("a.yaml", podYAML("a", ""))
			start(source.Config{Path: path, Reread: 5 * time.Millisecond})
			Eventually(ctx, count).Should(Equal(1))
			write("a.yaml", podYAML("a", ""))
			Consistently(ctx, count, "100ms").Should(Equal(1))
		}, NodeTimeout(5*time.Minute))
	})
})

func ExampleDirectory() {
	path, _ := os.MkdirTemp("", "manifests")
	defer func() { _ = os.RemoveAll(path) }()
	_ = os.WriteFile(filepath.Join(path, "web.yaml"), []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: 'app:1'}]}\n"), 0o600)
	_ = os.WriteFile(filepath.Join(path, "bad.yaml"), []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: app}]}\n"), 0o600)

	dir, _ := source.New(source.Config{Path: path, NodeName: "n1"})
	set := dir.Read()
	fmt.Println(set.Pods[0].Name)
	var problem manifest.Problem = set.Problems[0]
	fmt.Println(problem.Error())
	// Output:
	// web-n1
	// bad.yaml: Pod default/bad-n1: spec.containers[0].image: Required value
}
