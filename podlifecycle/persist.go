package podlifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

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

	// syncEvery bounds how often the journal is synced without need, and, doubled up
	// to syncLater, how often that is tried again.
	syncEvery = time.Second
	syncLater = 30 * time.Second
)

// unwell is a journal that cannot be written: since when, how often that was
// tried, and what was said first.
type unwell struct {
	since    time.Time
	failures int
	err      string
}

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

// wrote takes what came of a write to the journal, and asks for a sync soon, which
// also brings what could not be written.
func (m *Manager) wrote(err error) {
	if err != nil {
		m.journalFailed(err)
	}
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// syncJournal is for the loss of power: a kill of the agent loses nothing that
// was written, and what must not be lost at all was synced by ActionPersist. A
// disk that takes nothing now is tried until it does.
func (m *Manager) syncJournal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.dirty:
		}
		wait := syncEvery
		for err := m.journal.Sync(); err != nil; err = m.journal.Sync() {
			m.journalFailed(err)
			if !m.sleep(ctx, wait) {
				return
			}
			wait = min(2*wait, syncLater)
		}
		m.journalWritten()
		if !m.sleep(ctx, syncEvery) {
			return
		}
	}
}

// journalFailed tells once that the journal cannot be written, and counts.
func (m *Manager) journalFailed(err error) {
	if errors.Is(err, journal.ErrTooLarge) { // no fault of the disk's
		m.config.Logger.Error(err, "journal write failed")
		return
	}
	m.mu.Lock()
	first := m.unwell.failures == 0
	if first {
		m.unwell = unwell{since: m.config.Clock.Now(), err: err.Error()}
	}
	m.unwell.failures++
	text := m.unwell.err
	m.mu.Unlock()
	if first {
		m.config.Logger.Error(err, "journal cannot be written, what is new is held in memory")
	}
	m.note(Record{Rule: RuleJournal, Action: "hold what is new in memory", Reason: "it cannot be written, and is lost if the agent ends before it can",
		Result: "failed", Error: text})
}

// journalWritten tells that all of it is on disk, if it was not for a time.
func (m *Manager) journalWritten() {
	m.mu.Lock()
	was := m.unwell
	m.unwell = unwell{}
	m.mu.Unlock()
	if was.failures == 0 {
		return
	}
	took := m.config.Clock.Now().Sub(was.since)
	m.config.Logger.Info("journal is written again", "failures", was.failures, "duration", took)
	m.note(Record{Rule: RuleJournal, Input: was.err, Action: "write all that was held", Result: "done", Took: took,
		Reason: fmt.Sprintf("the journal can be written again, after %d failures", was.failures)})
}
