package podlifecycle_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestManagerRunsAPod(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		defer r.stop()
		r.set(newPod("web"))
		r.settle()
		pod := r.phase("web", corev1.PodRunning)
		r.ready("web", true)
		r.wantRunning("app/0")
		if pod.Status.PodIP == "" || pod.Status.HostIP != "192.0.2.1" || pod.Status.StartTime == nil {
			t.Errorf("addresses and start time: %+v", pod.Status)
		}
		if s := status(pod, "app"); s.ContainerID != "fake://"+r.container("app").ID || s.ImageID == "" || s.RestartCount != 0 {
			t.Errorf("container status: %+v", s)
		}
		if !r.volumes.called("setup web") || r.cgroups.left() != 1 {
			t.Errorf("volumes %v, cgroups %v", r.volumes.calls, r.cgroups.paths)
		}
		t.Log(r.why("web"))

		r.set()
		r.pass(time.Second)
		if pods := r.m.Pods(); len(pods) != 0 {
			t.Fatalf("still there: %v", pods)
		}
		if st := r.fake.State(); len(st.Sandboxes)+len(st.Containers) != 0 || r.cgroups.left() != 0 {
			t.Errorf("left behind: %+v %v", st, r.cgroups.paths)
		}
	})
}
