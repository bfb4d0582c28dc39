package podlifecycle_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// A variable comes from the file that the pod's init container leaves; until it
// is there, the container waits and says for what.
func TestVariableFromFile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		seen := make(chan []string, 10)
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Choose: func(p runtimetest.Process) runtimetest.Program {
			seen <- p.Env
			return runtimetest.Program{}
		}}).start()
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "LEVEL", ValueFrom: &corev1.EnvVarSource{
				FileKeyRef: &corev1.FileKeySelector{VolumeName: "shared", Path: "vars", Key: "LEVEL"}}}}
		}))
		r.settle()
		s := status(r.phase("web", corev1.PodPending), "app")
		if w := s.State.Waiting; w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "file vars of volume shared") {
			t.Errorf("status %+v", s)
		}
		r.volumes.mu.Lock()
		r.volumes.files = map[string]string{"web/shared/vars": "LEVEL='debug'\n"}
		r.volumes.mu.Unlock()
		r.pass(10 * time.Second)
		r.ready("web", true)
		if environ := <-seen; !slices.Contains(environ, "LEVEL=debug") {
			t.Errorf("environment %q", environ)
		}
	})
}
