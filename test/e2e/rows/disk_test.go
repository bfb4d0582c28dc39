package rows_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
)

func init() { rows = append(rows, fullDisk) }

// fill takes all the room that a file system has left.
func fill(file string) {
	GinkgoHelper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	Expect(err).NotTo(HaveOccurred())
	defer f.Close()
	for _, chunk := range []int{64 << 10, 4 << 10, 1} {
		for err = error(nil); err == nil; {
			_, err = f.Write(make([]byte, chunk))
		}
		Expect(errors.Is(err, syscall.ENOSPC)).To(BeTrue(), "%v", err)
	}
}

func fullDisk(n *node) {
	It("loses nothing when the agent's disk is full, and what ends makes room", func() {
		disk := filepath.Join(n.dir, "pods")
		n.stop()
		Expect(syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m,mode=711")).To(Succeed())
		DeferCleanup(func() { // after all pods are gone
			n.stop()
			Expect(syscall.Unmount(disk, 0)).To(Succeed())
			n.start()
			n.prints("after", "print x", "")
			n.clear()
		})
		n.start()
		n.settings("red")
		n.apply("stays", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v}]")+"]\n  volumes: [{name: v, configMap: {name: settings}}]")
		n.apply("ends", "containers: ["+n.does("app", "forever")+"]")
		pod := n.untilReady("stays")
		n.untilReady("ends")
		file := filepath.Join(disk, "pods", string(pod.UID), "volumes", "kubernetes.io~configmap", "v", "color")

		ballast := filepath.Join(disk, "ballast")
		fill(ballast)
		n.settings("blue")
		Eventually(func() string { return n.tell("stays") }, patience).Should(ContainSubstring("no space left on device"))
		Expect(os.ReadFile(file)).To(BeEquivalentTo("red"))
		Expect(os.Remove(filepath.Join(n.manifests, "ends.yaml"))).To(Succeed())
		Eventually(func() *corev1.Pod { return n.pod("ends") }, patience).Should(BeNil(), func() string { return n.tell("ends") })
		trouble := func(result string) (count int) {
			for _, r := range n.manager.Records() {
				if r.Rule == podlifecycle.RuleJournal && r.Result == result {
					count++
				}
			}
			return count
		}
		late := 0
		Eventually(func() int { // what ended has made room, which is taken again
			fill(ballast)
			late++
			n.apply("late", "restartPolicy: Never\n  containers: ["+n.does("app", fmt.Sprintf("print %d", late))+"]")
			return trouble("failed")
		}, patience, time.Second).Should(Equal(1), func() string { return fmt.Sprint(n.manager.Records()) })
		Expect(trouble("done")).To(BeZero())

		Expect(os.Remove(ballast)).To(Succeed())
		Eventually(func() ([]byte, error) { return os.ReadFile(file) }, 2*patience).Should(BeEquivalentTo("blue"))
		Eventually(func() int { return trouble("done") }, 2*patience).Should(Equal(1))
		Expect(trouble("failed")).To(Equal(1))
		Eventually(func() *corev1.Pod { return n.pod("late") }, 2*patience).Should(HaveField("Status.Phase", corev1.PodSucceeded), func() string { return n.tell("late") })
		n.stop()
		n.start()
		Expect(n.untilPhase("late", corev1.PodSucceeded).Status.ContainerStatuses[0].State.Terminated.ExitCode).To(BeZero())
		again := n.untilReady("stays").Status.ContainerStatuses[0]
		Expect(again.RestartCount).To(BeZero())
		Expect(again.ContainerID).To(Equal(pod.Status.ContainerStatuses[0].ContainerID))
	})
}
