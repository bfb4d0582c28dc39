package podlifecycle

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/podlifecycle/volume"
)

// sweepEvery is how often it is looked for what lost pods left, as the kubelet
// collects garbage of containers.
const sweepEvery = time.Minute

// note keeps a record about the node.
func (m *Manager) note(rec Record) {
	rec.Time = m.config.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ring.add(rec, false)
}

// Records gives the decisions about the node itself, such as images removed and
// what lost pods left, the newest last; a copy, never nil.
func (m *Manager) Records() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring.list()
}

// sweep removes what pods left that nobody knows any more: the cgroup, the logs
// and the directory of each pod with a directory below Root, and links to logs that
// are gone. What is still mounted keeps its pod's directory, for the next time. It
// runs in the goroutine that takes pods in, so that none comes meanwhile.
func (m *Manager) sweep(ctx context.Context) {
	if !m.whole {
		return // a source may still want them
	}
	m.swept = true
	uids, err := m.config.Volumes.Pods()
	if err != nil {
		m.config.Logger.Error(err, "list pod directories")
		return
	}
	known := map[types.UID]bool{}
	for _, w := range m.list() {
		known[w.uid] = true
	}
	for _, pod := range m.objects().Pods {
		known[pod.UID] = true
	}
	for _, uid := range uids {
		if !known[uid] {
			m.removeStray(ctx, uid)
		}
	}
	m.removeStrayLogs(ctx, func(uid types.UID) bool { return !known[uid] && m.ownLogs() })
	if m.config.LogLinks != "" {
		if _, err := logs.Prune(m.config.LogLinks, m.config.LogRoot); err != nil {
			m.config.Logger.Error(err, "remove links to logs that are gone")
		}
	}
}

// removeStray removes all that is left of a pod; its directory last, which says
// that there is something to remove.
func (m *Manager) removeStray(ctx context.Context, uid types.UID) {
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	rec := Record{Rule: RuleStrays, Input: string(uid), Action: "remove what a lost pod left", Reason: "no source and no container knows the pod", Result: "done"}
	if err := m.tearDownStray(ctx, uid); err != nil {
		m.config.Logger.Error(err, "remove what a lost pod left", "podUID", uid)
		rec.Result, rec.Error = "failed", err.Error()
	} else {
		m.config.Logger.Info("removed what a lost pod left", "podUID", uid)
	}
	m.note(rec)
}

func (m *Manager) tearDownStray(ctx context.Context, uid types.UID) error {
	if err := m.removeCgroups(ctx, uid); err != nil {
		return err
	}
	m.removeStrayLogs(ctx, func(other types.UID) bool { return other == uid })
	return m.config.Volumes.Teardown(ctx, uid)
}

// removeCgroups looks in every class: another pod of this UID may have been in
// another.
func (m *Manager) removeCgroups(ctx context.Context, uid types.UID) error {
	if m.config.Cgroups == nil {
		return nil
	}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := m.config.Cgroups.Remove(ctx, path.Join(m.config.QoS.ClassCgroup(class), "pod"+string(uid))); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// ownLogs tells that nobody else has logs in LogRoot.
func (m *Manager) ownLogs() bool {
	rel, err := filepath.Rel(m.config.Root, m.config.LogRoot)
	return err == nil && filepath.IsLocal(rel)
}

// removeStrayLogs removes the directories of logs, NAMESPACE_NAME_UID, of the pods
// that lost chooses.
func (m *Manager) removeStrayLogs(ctx context.Context, lost func(types.UID) bool) {
	entries, err := os.ReadDir(m.config.LogRoot)
	if err != nil && !os.IsNotExist(err) {
		m.config.Logger.Error(err, "list directories of logs")
		return
	}
	for _, entry := range entries {
		parts := strings.Split(entry.Name(), "_")
		if !entry.IsDir() || len(parts) != 3 || slices.Contains(parts, "") || !lost(types.UID(parts[2])) {
			continue
		}
		path := filepath.Join(m.config.LogRoot, entry.Name())
		if err := volume.RemoveTree(ctx, path); err != nil {
			m.config.Logger.Error(err, "remove logs of a lost pod", "path", path)
			continue
		}
		m.note(Record{Rule: RuleStrays, Input: path, Action: "remove logs", Reason: "no source and no container knows the pod", Result: "done"})
	}
}
