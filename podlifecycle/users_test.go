package podlifecycle_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// usersRuntime remembers the user IDs of each sandbox, and complains of two
// that are there at a time and share some.
type usersRuntime struct {
	*runtimetest.Fake
	mu   sync.Mutex
	have map[string]runtimeiface.UserNamespace // by sandbox
	err  error
}

func (u *usersRuntime) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	id, err := u.Fake.RunSandbox(ctx, spec)
	if err != nil || spec.UserNamespace == nil {
		return id, err
	}
	there := map[string]string{}
	for _, s := range u.Fake.State().Sandboxes {
		there[s.ID] = s.UID
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	mine := spec.UserNamespace.UIDs[0]
	if len(spec.UserNamespace.UIDs) != 1 || spec.UserNamespace.GIDs[0] != mine || mine.ContainerID != 0 || mine.Size != 65536 || mine.HostID < 65536 {
		u.err = fmt.Errorf("pod %s: %+v", spec.Name, spec.UserNamespace)
	}
	for other, ids := range u.have {
		uid, exists := there[other]
		if theirs := ids.UIDs[0]; exists && uid != spec.UID && mine.HostID < theirs.HostID+theirs.Size && theirs.HostID < mine.HostID+mine.Size {
			u.err = fmt.Errorf("pod %s has %d, and so has %s", spec.UID, mine.HostID, uid)
		}
	}
	u.have[id] = *spec.UserNamespace
	return id, nil
}

func ownUsers(name string) *corev1.Pod {
	return newPod(name, func(p *corev1.Pod) { no := false; p.Spec.HostUsers = &no })
}

// Pods come and go, containers crash, sandboxes die, the agent is killed and
// its journal lost: no two pods ever share a user ID.
func TestUserIDsNeverOverlap(t *testing.T) {
	for seed := range uint64(10) {
		bubble(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: 2 * time.Second}})
			rt := &usersRuntime{Fake: r.fake, have: map[string]runtimeiface.UserNamespace{}}
			r.tune = func(c *podlifecycle.Config) {
				c.Runtime, c.UserIDs = rt, podlifecycle.UserIDs{First: 131072, Count: 6 * 65536}
			}
			r.start()
			wanted := map[string]*corev1.Pod{}
			apply := func() {
				var pods []*corev1.Pod
				for _, pod := range wanted {
					pods = append(pods, pod)
				}
				r.set(pods...)
			}
			for step := range 60 {
				switch n := rng.IntN(10); {
				case n < 5 && len(wanted) < 6:
					name := fmt.Sprintf("p%d", step)
					wanted[name] = ownUsers(name)
				case n < 8:
					for name := range wanted {
						delete(wanted, name)
						break
					}
				case n == 8:
					r.stop()
					if rng.IntN(2) == 0 {
						r.loseJournal()
					}
					r.start()
				default:
					for _, s := range r.fake.State().Sandboxes {
						_ = r.fake.StopSandbox(t.Context(), s.ID)
						break
					}
				}
				apply()
				r.pass(time.Duration(rng.IntN(4000)) * time.Millisecond)
				if rt.err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, step, rt.err)
				}
			}
			r.pass(time.Minute)
			for name := range wanted {
				r.ready(name, true)
			}
		})
	}
}

// A pod that finds no IDs free waits for them; a restart keeps what there is,
// and what is gone is free.
func TestUserIDsRunOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		rt := &usersRuntime{Fake: r.fake, have: map[string]runtimeiface.UserNamespace{}}
		r.tune = func(c *podlifecycle.Config) {
			c.Runtime, c.UserIDs = rt, podlifecycle.UserIDs{First: 65536, Count: 2 * 65536}
		}
		r.start()
		a, b, c := ownUsers("a"), ownUsers("b"), ownUsers("c")
		r.set(a, b)
		r.settle()
		r.kill()
		r.start()
		r.set(a, b, c, newPod("plain"))
		r.settle()
		r.ready("plain", true)
		pod := r.phase("c", corev1.PodPending)
		if !strings.Contains(pod.Status.Message, "hostUsers is false, and no range of user IDs is free: 2 are given out") {
			t.Errorf("message %q", pod.Status.Message)
		}
		r.set(b, c)
		r.pass(time.Minute)
		r.ready("b", true)
		r.ready("c", true)
		if rt.err != nil {
			t.Error(rt.err)
		}
	})
}
