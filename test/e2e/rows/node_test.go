package rows_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	logfiles "github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, privateImages, imageVolumes, garbage, longLogs, nodeShutdown) }

func privateImages(n *node) {
	It("may pull what its pull secret opens, and nothing without", func() {
		host, _, _ := strings.Cut(n.images.Private, "/")
		auth, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{
			"username": n.images.PrivateAuth.Username, "password": n.images.PrivateAuth.Password}}})
		Expect(err).NotTo(HaveOccurred())
		private := func(more string) string {
			return fmt.Sprintf("containers: [{name: app, image: %q, args: [forever]}]%s", n.images.Private, more)
		}
		n.apply("refused", private(""))
		n.until("refused", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(pod.Status.ContainerStatuses[0].State.Waiting).NotTo(BeNil())
			g.Expect(pod.Status.ContainerStatuses[0].State.Waiting.Reason).To(Or(Equal("ErrImagePull"), Equal("ImagePullBackOff")))
		})
		n.write("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '"+string(auth)+"'}\n")
		n.apply("let-in", private("\n  imagePullSecrets: [{name: nobody}, {name: pull}]"))
		n.untilReady("let-in")
		n.apply("beside", private("\n  restartPolicy: Never"))
		n.until("beside", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(condition(pod, corev1.PodReadyToStartContainers)).To(Equal(corev1.ConditionTrue))
			g.Expect(pod.Status.ContainerStatuses[0].State.Waiting).NotTo(BeNil(), "the image is there, and not for this pod")
			g.Expect(pod.Status.ContainerStatuses[0].State.Waiting.Reason).To(Or(Equal("ErrImagePull"), Equal("ImagePullBackOff")))
		})
		Expect(n.tell("let-in")).NotTo(ContainSubstring(n.images.PrivateAuth.Password))
	})
}

func imageVolumes(n *node) {
	volume := func(more string) string {
		return fmt.Sprintf("\n  volumes: [{name: v, image: {reference: %q%s}}]", n.images.Volume, more)
	}
	It("has the content of another image, to read", func() {
		got := n.prints("image-volume", "cat /v/hello ; cat /part/inner ; run write /v/hello x", volume(""), "env: [{name: WHERE, value: dir}]",
			"volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /part, subPathExpr: $(WHERE)}]")
		Expect(got).To(ContainSubstring("volume\ninner\n"))
		Expect(got).To(ContainSubstring("exit 1\n"))
	})
	for name, c := range map[string]struct{ more, mount, reason string }{
		"never pulled":     {", pullPolicy: Never", "", "ErrImageNeverPull"},
		"without the path": {"", ", subPath: nowhere", "CreateContainerError"},
	} {
		It("waits for an image volume "+name, func() {
			Expect(n.manager.Reclaim(context.Background())).Error().NotTo(HaveOccurred())
			n.apply("image-waits", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v"+c.mount+"}]")+"]"+volume(c.more))
			n.until("image-waits", func(g Gomega, pod *corev1.Pod) {
				g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
				g.Expect(pod.Status.ContainerStatuses[0].State.Waiting).NotTo(BeNil())
				g.Expect(pod.Status.ContainerStatuses[0].State.Waiting.Reason).To(Equal(c.reason))
				g.Expect(condition(pod, corev1.PodReadyToStartContainers)).To(Equal(corev1.ConditionTrue))
			})
		})
	}
}

// has tells whether an image is on the node.
func (n *node) has(ref string) bool {
	GinkgoHelper()
	_, err := n.rt.(runtimeiface.Images).ImageStatus(context.Background(), ref)
	if err != nil {
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	}
	return err == nil
}

func garbage(n *node) {
	It("keeps its image, and those that nobody uses go when room is asked for", func() {
		n.prints("spare", "print x", fmt.Sprintf("\n  volumes: [{name: v, image: {reference: %q}}]", n.images.Volume), "volumeMounts: [{name: v, mountPath: /v}]")
		Expect(n.manager.Reclaim(context.Background())).Error().NotTo(HaveOccurred())
		Expect(n.has(n.images.Volume)).To(BeTrue(), "a dead container has it")
		n.clear()
		n.apply("keeps", "containers: ["+n.does("app", "forever")+"]")
		n.untilReady("keeps")
		Expect(n.manager.Reclaim(context.Background())).Error().NotTo(HaveOccurred())
		Expect(n.has(n.images.Prog)).To(BeTrue())
		Expect(n.has(n.images.Volume)).To(BeFalse())
		Expect(n.manager.Records()).To(ContainElement(HaveField("Action", HavePrefix("remove image "))))
	})

	It("leaves one dead instance of a container, with its log", func() {
		n.apply("crashes", "containers: ["+n.does("app", "exit 1")+"]")
		n.until("crashes", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(pod.Status.ContainerStatuses[0].RestartCount).To(BeNumerically(">=", 2))
		})
		uid := string(n.pod("crashes").UID)
		Eventually(func() ([]runtimeiface.Container, error) {
			return n.rt.(runtimeiface.Containers).ListContainers(context.Background(), runtimeiface.ContainerFilter{Labels: map[string]string{podlifecycle.LabelPodUID: uid}})
		}, patience).Should(HaveLen(1))
	})

	// Trap 8: what lost pods left is removed, but never across a live mount.
	It("that was lost leaves nothing, once nothing is mounted there", func() {
		lost := filepath.Join(n.dir, "pods", "pods", "lost")
		data, live := filepath.Join(n.dir, "user-data"), filepath.Join(lost, "volumes", "live")
		Expect(os.MkdirAll(live, 0o700)).To(Succeed())
		Expect(os.Mkdir(data, 0o700)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(data, "precious"), []byte("x"), 0o600)).To(Succeed())
		group := filepath.Join(n.cgroup, "pods", "burstable", "podlost")
		Expect(cgroup.New().Ensure(context.Background(), group, nil)).To(Succeed())
		Expect(syscall.Mount(data, live, "", syscall.MS_BIND, "")).To(Succeed())
		DeferCleanup(func() { _ = syscall.Unmount(live, syscall.MNT_DETACH) })
		n.stop()
		n.start()
		Eventually(n.manager.Records, patience).Should(ContainElement(And(HaveField("Input", "lost"), HaveField("Result", "failed"))))
		Expect(filepath.Join(data, "precious")).To(BeAnExistingFile())
		Expect(syscall.Unmount(live, 0)).To(Succeed())
		n.stop()
		n.start()
		Eventually(lost, patience).ShouldNot(BeADirectory())
		Expect(filepath.Join(data, "precious")).To(BeAnExistingFile())
		Expect(cgroup.New().List(filepath.Dir(group))).NotTo(ContainElement(group))
		Expect(os.RemoveAll(data)).To(Succeed())
	})
}

func longLogs(n *node) {
	It("that talks much has its log in several files, without a gap, and a link to it", func() {
		const lines = 40_000
		n.apply("talks", "containers: ["+n.does("app", fmt.Sprintf("lines %d ; sleep 11s ; lines %d ; forever", lines, lines))+"]")
		pod := n.untilReady("talks")
		path, err := n.manager.LogPath("default", "talks", "app", false)
		Expect(err).NotTo(HaveOccurred())
		var text string
		Eventually(func(g Gomega) {
			files, err := logfiles.Files(path)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(len(files)).To(BeNumerically(">=", 2))
			text = ""
			for _, file := range files {
				text += readLog(g, file)
			}
			g.Expect(strings.Count(text, "\n")).To(Equal(2 * lines))
		}, patience).Should(Succeed())
		_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
		Expect(os.Readlink(filepath.Join(n.dir, "links", "talks_default_app-"+id+".log"))).To(Equal(path))
		n.clear()
		Expect(os.ReadDir(filepath.Join(n.dir, "links"))).NotTo(ContainElement(HaveField("Name()", HavePrefix("talks_"))))
	})
}

func readLog(g Gomega, file string) string {
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return "" // it is being rotated
	}
	g.Expect(err).NotTo(HaveOccurred())
	if strings.HasSuffix(file, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(data))
		g.Expect(err).NotTo(HaveOccurred())
		data, err = io.ReadAll(r)
		g.Expect(err).NotTo(HaveOccurred())
	}
	return string(data)
}

func nodeShutdown(n *node) {
	It("ends with its node, by priority, and runs again after that", func() {
		n.apply("low", "containers: ["+n.does("app", "trap 0 ; forever")+"]")
		n.apply("critical", "priorityClassName: system-node-critical\n  containers: ["+n.does("app", "forever")+"]")
		n.untilReady("low")
		n.untilReady("critical")
		periods, err := shutdown.Periods(10*time.Second, 5*time.Second)
		Expect(err).NotTo(HaveOccurred())
		Expect(n.manager.Shutdown(context.Background(), periods)).To(Succeed())
		var ends []time.Time
		for _, name := range []string{"low", "critical"} {
			pod := n.untilPhase(name, corev1.PodFailed)
			Expect(pod.Status.Reason).To(Equal("Terminated"))
			Expect(condition(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
			ends = append(ends, pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time)
		}
		Expect(slices.IsSortedFunc(ends, time.Time.Compare)).To(BeTrue(), "%v", ends)
		n.apply("late", "containers: ["+n.does("app", "forever")+"]")
		n.until("late", func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.Reason).To(Equal("NodeShutdown")) })
		n.stop()
		n.start()
		for _, name := range []string{"low", "critical", "late"} {
			n.untilReady(name)
		}
		Expect(n.pod("low").Status.ContainerStatuses[0].RestartCount).To(BeEquivalentTo(1))
	})
}
