package podlifecycle

// Inside the package, because the journal's text is its own affair.

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

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
