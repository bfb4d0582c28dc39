package podlifecycle

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/logs"
	"github.com/nodekit/nodekit/runtimeiface"
)

// rotateEvery is how often the size of logs is looked at, the kubelet's
// containerLogMonitorInterval.
const rotateEvery = 10 * time.Second

// keepLogs rotates logs, and removes those of instances that are gone, as long as
// ctx lasts. It goes by what the workers last saw and asks the runtime nothing.
func (m *Manager) keepLogs(ctx context.Context) {
	ticker := m.config.Clock.NewTicker(rotateEvery)
	defer ticker.Stop()
	refused := map[string]bool{} // containers whose log the runtime does not reopen
	for turn := 1; ; turn++ {
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return
		}
		running := map[string]bool{}
		for _, w := range m.list() {
			w.mu.Lock()
			pod, containers := w.pod, w.seen.containers
			w.mu.Unlock()
			for _, c := range containers {
				if c.State == runtimeiface.ContainerRunning && c.LogPath != "" {
					running[c.ID] = true
					if !refused[c.ID] {
						refused[c.ID] = w.rotate(ctx, c)
					}
				}
			}
			if turn%int(sweepEvery/rotateEvery) == 0 {
				m.removeOldLogs(pod, containers)
			}
		}
		maps.DeleteFunc(refused, func(id string, _ bool) bool { return !running[id] })
	}
}

// rotate rotates one log, and tells whether that is never going to work.
func (w *worker) rotate(ctx context.Context, c runtimeiface.Container) (refused bool) {
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	now := w.m.config.Clock.Now()
	rotated, err := logs.Rotate(ctx, c.LogPath, w.m.config.LogRotation, now, func(ctx context.Context) error {
		return w.m.config.Runtime.ReopenLog(ctx, c.ID)
	})
	if err == nil && !rotated || ctx.Err() != nil ||
		errors.Is(err, runtimeiface.ErrNotRunning) || errors.Is(err, runtimeiface.ErrNotFound) {
		return false // it has ended meanwhile
	}
	rec := Record{Time: now, Container: c.Name, Rule: RuleLogs, Input: c.LogPath, Action: "rotate log", Reason: "it has grown to its limit", Result: "done"}
	if err != nil {
		w.log.Error(err, "rotate log", "container", c.Name, "containerID", c.ID)
		rec.Result, rec.Error = "failed", err.Error()
	}
	w.mu.Lock()
	w.ring.add(rec, false)
	w.mu.Unlock()
	return errors.Is(err, runtimeiface.ErrNotSupported)
}

// removeOldLogs removes the logs of attempts that are older than all that the
// runtime still has of a container.
func (m *Manager) removeOldLogs(pod *corev1.Pod, containers []runtimeiface.Container) {
	oldest := map[string]uint32{}
	for _, c := range containers {
		if least, known := oldest[c.Name]; !known || c.Attempt < least {
			oldest[c.Name] = c.Attempt
		}
	}
	for name, least := range oldest {
		dir := filepath.Join(m.logDir(pod), name)
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				m.config.Logger.Error(err, "look for old logs", "container", name)
			}
			continue
		}
		for _, entry := range entries {
			number, _, ok := strings.Cut(entry.Name(), ".log")
			attempt, err := strconv.ParseUint(number, 10, 32)
			if !ok || err != nil || uint32(attempt) >= least || !entry.Type().IsRegular() {
				continue
			}
			if err := logs.Remove(filepath.Join(dir, number+".log")); err != nil {
				m.config.Logger.Error(err, "remove old log", "container", name)
			}
		}
	}
}

// linkLogs makes links to the logs of the containers that are there, and removes
// those of the others.
func (w *worker) linkLogs(pod *corev1.Pod, containers []runtimeiface.Container) {
	dir := w.m.config.LogLinks
	if dir == "" {
		return
	}
	want := map[string]string{}
	for _, c := range containers {
		if c.LogPath != "" && c.State != runtimeiface.ContainerCreated {
			want[logs.LinkName(pod.Name, pod.Namespace, c.Name, c.ID)] = c.LogPath
		}
	}
	if maps.Equal(want, w.links) {
		return
	}
	for name, target := range want {
		if w.links[name] == target {
			continue
		}
		if err := logs.Link(dir, name, target); err != nil {
			w.log.Error(err, "link log", "path", target)
		}
	}
	w.unlinkLogs(want)
	w.links = want
}

// unlinkLogs removes the links that are not in want.
func (w *worker) unlinkLogs(want map[string]string) {
	for name := range w.links {
		if want[name] != "" {
			continue
		}
		if err := os.Remove(filepath.Join(w.m.config.LogLinks, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.log.Error(err, "remove link to log", "path", name)
		}
	}
}
