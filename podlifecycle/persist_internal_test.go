package podlifecycle

// Inside the package, because the journal's text is its own affair.

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	clock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/podlifecycle/journal"
	"github.com/nodekit/nodekit/podlifecycle/probe"
)

// The text that is joined from parts is that of the whole.
func TestStateText(t *testing.T) {
	for name, state := range map[string]podState{
		"nothing":     {},
		"only status": {Status: corev1.PodStatus{Phase: corev1.PodRunning, Message: `a "quote" {"status":{}`}},
		"all": {
			Status: corev1.PodStatus{Phase: corev1.PodRunning}, Ending: &Ending{Reason: EndingDeleted, Since: time.Unix(1, 0).UTC(), Grace: time.Second},
			Verdicts: map[string]map[probe.Kind]probe.Result{"a": {probe.Liveness: probe.Success}},
			Hooks:    map[string]Hook{"a": {State: HookDone}}, Kills: map[string]Kill{"a": {Rule: RuleEnding}},
			Records: []Record{{Time: time.Unix(2, 3).UTC(), Rule: RuleStart, Action: "x", Reason: "y"}, {Rule: RuleImage, Count: 2}},
		},
	} {
		r := ring{max: 10}
		for _, rec := range state.Records {
			r.add(rec, false)
		}
		rest := state
		rest.Status, rest.Records = corev1.PodStatus{}, nil
		var got podState
		if err := json.Unmarshal(stateText(encode(state.Status), encode(rest), r.texts(keptRecords)), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, state) {
			t.Errorf("%s: got %+v, want %+v", name, got, state)
		}
	}
	r := ring{max: 10}
	number := r.add(Record{Rule: RuleStart}, true)
	r.texts(5)
	r.finish(number, "done", nil, time.Second)
	if text := string(r.texts(5)[0]); text != string(encode(r.list()[0])) {
		t.Errorf("an old text is kept: %s", text)
	}
}

// A journal that cannot be written is told of as that begins and when it is over, in
// one record each and one line of the log, however often it was tried.
func TestJournalTroubleIsToldOnce(t *testing.T) {
	var said []string
	fake := clock.NewFakeClock(time.Unix(1000, 0))
	m := &Manager{ring: ring{max: 10}, dirty: make(chan struct{}, 1), config: Config{Clock: fake,
		Logger: funcr.New(func(_, args string) { said = append(said, args) }, funcr.Options{})}}
	m.journalWritten()
	for i := range 40 {
		m.wrote(fmt.Errorf("write %d: %w", i, syscall.ENOSPC))
		fake.Step(time.Second)
	}
	m.journalWritten()
	m.journalWritten()
	records := m.Records()
	if len(records) != 2 || records[0].Count != 40 || records[0].Result != "failed" || records[0].Error != "write 0: no space left on device" ||
		records[1].Result != "done" || records[1].Took != 40*time.Second || !strings.Contains(records[1].Reason, "after 40 failures") {
		t.Errorf("records %v", records)
	}
	if len(said) != 2 || !strings.Contains(said[0], "no space left") || !strings.Contains(said[1], `"failures"=40`) {
		t.Errorf("log %q", said)
	}
	m.wrote(fmt.Errorf("put: %w", journal.ErrTooLarge))
	if got := m.Records(); len(got) != 2 || m.unwell.failures != 0 {
		t.Errorf("a value that is too large is not the disk's: %v", got)
	}
	m.wrote(syscall.EIO)
	if got := m.Records(); len(got) != 3 || got[2].Count != 0 || got[2].Error != syscall.EIO.Error() {
		t.Errorf("trouble of later is its own: %v", got)
	}
}
