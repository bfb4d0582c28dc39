package podlifecycle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/journal"
	"github.com/nodekit/nodekit/podlifecycle/probe"
)

// Keys of the journal: the spec of each admitted pod, which changes seldom,
// and its state.
const (
	keySpec  = "spec/"
	keyState = "state/"

	keptRecords = 20
)

// podState is what the runtime cannot tell of a pod. Status comes first, see
// stateText.
type podState struct {
	Status corev1.PodStatus `json:"status"`
	Ending *Ending          `json:"ending,omitempty"`
	// Users is the first of the pod's own user IDs.
	Users uint32 `json:"users,omitempty"`
	// Allocated is what was granted, Size that of the pod's cgroup.
	Allocated *Allocation                  `json:"allocated,omitempty"`
	Size      *corev1.ResourceRequirements `json:"size,omitempty"`
	// By container ID.
	Verdicts map[string]map[probe.Kind]probe.Result `json:"verdicts,omitempty"`
	Hooks    map[string]Hook                        `json:"hooks,omitempty"`
	Kills    map[string]Kill                        `json:"kills,omitempty"`
	Actuated map[string]corev1.ResourceRequirements `json:"actuated,omitempty"`
	Records  []Record                               `json:"records,omitempty"`
}

// remembered is one pod as the journal has it.
type remembered struct {
	pod   *corev1.Pod
	state podState
}

// recall reads every pod of the journal. What cannot be decoded is left out
// and named: the runtime still knows the containers.
func recall(j *journal.Journal) (map[types.UID]remembered, []error) {
	pods := map[types.UID]remembered{}
	var errs []error
	for _, key := range j.Keys(keySpec) {
		uid := types.UID(strings.TrimPrefix(key, keySpec))
		value, _ := j.Get(key)
		pod := &corev1.Pod{}
		if err := json.Unmarshal(value, pod); err != nil || pod.UID != uid {
			errs = append(errs, fmt.Errorf("read %s from journal: %w", key, orMismatch(err)))
			continue
		}
		pods[uid] = remembered{pod: pod}
	}
	for _, key := range j.Keys(keyState) {
		uid := types.UID(strings.TrimPrefix(key, keyState))
		known, ok := pods[uid]
		if !ok {
			continue
		}
		value, _ := j.Get(key)
		if err := json.Unmarshal(value, &known.state); err != nil {
			errs = append(errs, fmt.Errorf("read %s from journal: %w", key, err))
			known.state = podState{}
		}
		pods[uid] = known
	}
	return pods, errs
}

func orMismatch(err error) error {
	if err == nil {
		return fmt.Errorf("its UID is another")
	}
	return err
}

func putJSON(j *journal.Journal, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return j.Put(key, text)
}

// encode gives JSON of what always has one.
func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Appendf(nil, "%q", err)
	}
	return text
}

// stateText joins the parts of a podState that are encoded already: its status,
// the rest without status and records, and the records. A status is encoded once
// for all that ask whether it changed, a record once for all.
func stateText(status, rest []byte, records [][]byte) []byte {
	rest = bytes.TrimPrefix(rest, []byte(`{"status":{}`))
	text := make([]byte, 0, len(status)+len(rest)+len(records)*300)
	text = append(append(text, `{"status":`...), status...)
	text = append(text, rest[:len(rest)-1]...)
	if len(records) > 0 {
		text = append(append(append(text, `,"records":[`...), bytes.Join(records, []byte(","))...), ']')
	}
	return append(text, '}')
}
