package podlifecycle_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func TestNewReportsAllBadFields(t *testing.T) {
	_, err := podlifecycle.New(podlifecycle.Config{Root: "relative", LogRoot: "too", MaxParallelPulls: -1, Relist: -time.Second,
		UserIDs: podlifecycle.UserIDs{First: 1000, Count: 65536}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"Runtime", "Root", "LogRoot", "MaxParallelPulls", "Relist", "UserIDs.First"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not in: %v", field, err)
		}
	}
}

func TestRunOnceAndStopAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}})
		m, err := podlifecycle.New(podlifecycle.Config{Runtime: r.fake, Root: r.root})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.StopAll(t.Context()); !errors.Is(err, podlifecycle.ErrEnded) {
			t.Errorf("StopAll before Run: %v", err)
		}
		r.start()
		r.settle()
		if err := r.m.Run(t.Context()); !errors.Is(err, podlifecycle.ErrStarted) {
			t.Errorf("Run again: %v", err)
		}
		r.set(newPod("web"))
		r.settle()
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.m.StopAll(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 left") {
			t.Errorf("StopAll with too little time: %v", err)
		}
		if err := r.m.StopAll(t.Context()); err != nil {
			t.Errorf("StopAll again: %v", err)
		}
		r.stop()
	})
}

// Pods of an earlier agent are found and ended by StopAll too, without a set.
func TestStopAllBeforeTheFirstSet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		r.kill()
		r.start()
		r.settle()
		if err := r.m.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := r.fake.State(); len(st.Sandboxes) != 0 {
			t.Errorf("left %+v", st)
		}
	})
}

// An agent that ends while a runtime call hangs does not wait for it.
func TestRunEndsInTheMidstOfACall(t *testing.T) {
	for _, op := range []runtimetest.Op{runtimetest.OpRunSandbox, runtimetest.OpListContainers, runtimetest.OpPullImage, runtimetest.OpStopContainer, runtimetest.OpSubscribe, runtimetest.OpVersion} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, runtimetest.FakeImage{Ref: "web:1"})
			r.fake.Inject(runtimetest.Fault{Op: op, Hang: true})
			r.start()
			r.set(newPod("web"))
			r.settle()
			r.set()
			r.settle()
			began := time.Now()
			r.stop()
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: %v", op, took)
			}
		})
	}
}
