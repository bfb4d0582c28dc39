package podlifecycle_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/journal"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var anInit = runtimetest.FakeImage{Ref: "init:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{}}}

func threePods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, name := range []string{"a", "b", "c"} {
		pods = append(pods, newPod(name, func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{container("init", "init:1"), sidecar("proxy", "web:1")}
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
		}))
	}
	return pods
}

// alive tells what runs, instance by instance.
func (r *rig) alive() []string {
	var ids []string
	for _, c := range r.fake.State().Containers {
		if c.State == runtimeiface.ContainerRunning {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// On a journal that is damaged anywhere an agent starts, tells of it in the log
// and to each pod, and restarts nothing that runs.
func TestDamagedJournalRestartsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, anInit, runtimetest.FakeImage{Ref: "web:1", Present: true})
		var mu sync.Mutex
		var logged strings.Builder
		r.tune = func(c *podlifecycle.Config) {
			c.Logger = funcr.New(func(_, args string) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(&logged, args)
			}, funcr.Options{})
		}
		r.start()
		r.set(threePods()...)
		r.pass(time.Minute)
		r.stop()
		path := filepath.Join(r.root, "journal")
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before := r.alive()
		if len(before) != 6 {
			t.Fatalf("running %v", r.running())
		}
		damages := map[string]func([]byte, int) []byte{
			"flipped": func(b []byte, at int) []byte { b[at] ^= 0xff; return b },
			"zeroed":  func(b []byte, at int) []byte { clear(b[at:min(len(b), at+512)]); return b },
			"cut":     func(b []byte, at int) []byte { return b[:at] },
			"doubled": func(b []byte, at int) []byte { return append(b, b[at:]...) },
		}
		quarantined := 0
		for at := 0; at < len(whole); at += len(whole) / 16 {
			for name, damage := range damages {
				if err := os.WriteFile(path, damage(slices.Clone(whole), at), 0o600); err != nil {
					t.Fatal(err)
				}
				logged.Reset()
				r.start()
				r.set(threePods()...)
				r.pass(20 * time.Second)
				if after := r.alive(); !slices.Equal(after, before) {
					t.Fatalf("%s at %d: running %v, had %v\n%s", name, at, after, before, r.why("a"))
				}
				told := strings.Contains(logged.String(), "journal was damaged")
				for _, pod := range []string{"a", "b", "c"} {
					r.ready(pod, true)
					if recorded := strings.Contains(r.why(pod), "["+podlifecycle.RuleJournal+"]"); recorded != told {
						t.Errorf("%s at %d: logged %v, recorded for %s %v", name, at, told, pod, recorded)
					}
				}
				if told {
					quarantined++
				}
				r.stop()
			}
		}
		if quarantined < 10 {
			t.Errorf("only %d damages were noticed", quarantined)
		}
	})
}

// Agents of another version wrote the journal: an older one that knew less of a
// pod, a newer one that knew more. Nothing is restarted, counts go on.
func TestJournalOfAnotherVersion(t *testing.T) {
	for name, edit := range map[string]func(state map[string]json.RawMessage){
		"older": func(state map[string]json.RawMessage) {
			for key := range state {
				if key != "status" {
					delete(state, key)
				}
			}
		},
		"newer": func(state map[string]json.RawMessage) {
			state["moods"] = json.RawMessage(`{"app":["glad",{"since":1}]}`)
			state["status"] = json.RawMessage(strings.Replace(string(state["status"]), "{", `{"shoeSize":46,`, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, anInit, runtimetest.FakeImage{Ref: "web:1", Present: true}).start()
				r.set(threePods()...)
				r.pass(time.Minute)
				if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
					t.Fatal(err)
				}
				r.pass(time.Minute)
				before := r.alive()
				r.stop()
				j, _, err := journal.Open(journal.Config{Path: filepath.Join(r.root, "journal")})
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range j.Keys("state/") {
					value, _ := j.Get(key)
					state := map[string]json.RawMessage{}
					if err := json.Unmarshal(value, &state); err != nil {
						t.Fatal(err)
					}
					edit(state)
					if value, err = json.Marshal(state); err != nil {
						t.Fatal(err)
					}
					if err := j.Put(key, value); err != nil {
						t.Fatal(err)
					}
				}
				if err := j.Put("of-a-later-version/x", bytes.Repeat([]byte{0xff}, 100)); err != nil {
					t.Fatal(err)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				r.start()
				r.set(threePods()...)
				r.pass(time.Minute)
				if after := r.alive(); !slices.Equal(after, before) {
					t.Errorf("running %v, had %v", after, before)
				}
				restarts := int32(0)
				for _, pod := range []string{"a", "b", "c"} {
					restarts += status(r.ready(pod, true), "app").RestartCount
				}
				if restarts != 1 {
					t.Errorf("%d restarts are known", restarts)
				}
			})
		})
	}
}
