package cri

import (
	"cmp"
	"maps"
	"slices"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// rank is how far a sandbox or a container has come. It only grows, so that
// what is heard late changes nothing.
type rank int

const (
	rankMade rank = iota + 1
	rankRunning
	rankExited
)

// remember is how long it is known that something is gone.
const remember = 10 * time.Minute

// thing is a sandbox or a container.
type thing struct {
	rank    rank
	sandbox string
	seen    time.Time // first
}

// model is what a subscription believes there is. Each change gives events.
type model struct {
	pods       map[string]string // sandbox to UID
	sandboxes  map[string]thing
	containers map[string]thing
	gone       map[string]time.Time
	last       map[string]time.Time // of the newest event, by UID
}

func newModel(first snapshot) *model {
	m := &model{
		pods: map[string]string{}, sandboxes: map[string]thing{}, containers: map[string]thing{},
		gone: map[string]time.Time{}, last: map[string]time.Time{},
	}
	m.compare(first)
	return m
}

// event takes what the runtime tells. Events of a sandbox name it as container.
func (m *model) event(e *api.ContainerEventResponse) []runtimeiface.Event {
	when := at(e.CreatedAt)
	id := e.ContainerId
	sandbox := e.PodSandboxStatus.GetId()
	if sandbox == "" {
		sandbox = m.containers[id].sandbox
	}
	if uid := e.PodSandboxStatus.GetMetadata().GetUid(); uid != "" {
		if _, gone := m.gone[sandbox]; !gone {
			m.pods[sandbox] = uid
		}
	}
	_, known := m.sandboxes[id]
	if known || id == sandbox {
		switch e.ContainerEventType {
		case api.ContainerEventType_CONTAINER_CREATED_EVENT, api.ContainerEventType_CONTAINER_STARTED_EVENT:
			return m.sandbox(id, rankRunning, when)
		case api.ContainerEventType_CONTAINER_STOPPED_EVENT:
			return m.sandbox(id, rankExited, when)
		default:
			return m.sandboxGone(id, when)
		}
	}
	switch e.ContainerEventType {
	case api.ContainerEventType_CONTAINER_CREATED_EVENT:
		return m.container(id, sandbox, rankMade, when)
	case api.ContainerEventType_CONTAINER_STARTED_EVENT:
		return m.container(id, sandbox, rankRunning, when)
	case api.ContainerEventType_CONTAINER_STOPPED_EVENT:
		return m.container(id, sandbox, rankExited, when)
	default:
		return m.containerGone(id, when)
	}
}

// compare takes a list of all.
func (m *model) compare(list snapshot) []runtimeiface.Event {
	var out []runtimeiface.Event
	now := time.Now()
	sandboxes, containers := map[string]bool{}, map[string]bool{}
	for _, s := range list.sandboxes {
		sandboxes[s.Id] = true
	}
	for _, c := range list.containers {
		containers[c.Id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		if !containers[id] && m.containers[id].seen.Before(list.began) {
			out = append(out, m.containerGone(id, now)...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.sandboxes)) {
		if !sandboxes[id] && m.sandboxes[id].seen.Before(list.began) {
			out = append(out, m.sandboxGone(id, now)...)
		}
	}
	var started, ended []*api.PodSandbox
	for _, s := range list.sandboxes {
		if _, gone := m.gone[s.Id]; !gone {
			m.pods[s.Id] = s.Metadata.GetUid()
		}
		if s.State == api.PodSandboxState_SANDBOX_READY {
			started = append(started, s)
		} else {
			ended = append(ended, s)
		}
	}
	oldest := func(a, b *api.PodSandbox) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) }
	slices.SortFunc(started, oldest)
	slices.SortFunc(ended, oldest)
	for _, s := range started {
		out = append(out, m.sandbox(s.Id, rankRunning, now)...)
	}
	slices.SortFunc(list.containers, func(a, b *api.Container) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) })
	ranks := map[api.ContainerState]rank{
		api.ContainerState_CONTAINER_CREATED: rankMade, api.ContainerState_CONTAINER_RUNNING: rankRunning, api.ContainerState_CONTAINER_EXITED: rankExited,
	}
	for _, c := range list.containers {
		if r := ranks[c.State]; r != 0 {
			out = append(out, m.container(c.Id, c.PodSandboxId, r, now)...)
		}
	}
	for _, s := range ended {
		// One that is not ready yet, or was found so, is not news.
		if known, ok := m.sandboxes[s.Id]; !ok && m.pods[s.Id] != "" {
			m.sandboxes[s.Id] = thing{rank: rankMade, seen: now}
		} else if known.rank == rankRunning {
			out = append(out, m.sandbox(s.Id, rankExited, now)...)
		}
	}
	maps.DeleteFunc(m.gone, func(_ string, at time.Time) bool { return now.Sub(at) > remember })
	return out
}

func (m *model) sandbox(id string, to rank, when time.Time) []runtimeiface.Event {
	if _, gone := m.gone[id]; gone || m.pods[id] == "" {
		return nil
	}
	s, known := m.sandboxes[id]
	if known && s.rank >= to {
		return nil
	}
	if !known {
		s.seen = time.Now()
	}
	s.rank = to
	m.sandboxes[id] = s
	if to == rankExited {
		return m.tell(runtimeiface.SandboxStopped, id, "", when)
	}
	return m.tell(runtimeiface.SandboxStarted, id, "", when)
}

func (m *model) sandboxGone(id string, when time.Time) []runtimeiface.Event {
	s, known := m.sandboxes[id]
	if !known {
		m.gone[id] = time.Now()
		delete(m.pods, id)
		return nil
	}
	var out []runtimeiface.Event
	for _, c := range slices.Sorted(maps.Keys(m.containers)) {
		if m.containers[c].sandbox == id {
			out = append(out, m.containerGone(c, when)...)
		}
	}
	if s.rank == rankRunning {
		out = append(out, m.tell(runtimeiface.SandboxStopped, id, "", when)...)
	}
	out = append(out, m.tell(runtimeiface.SandboxRemoved, id, "", when)...)
	m.gone[id] = time.Now()
	uid := m.pods[id]
	delete(m.sandboxes, id)
	delete(m.pods, id)
	for _, other := range m.pods {
		if other == uid {
			return out
		}
	}
	delete(m.last, uid)
	return out
}

// container takes sandbox "" for one that is known.
func (m *model) container(id, sandbox string, to rank, when time.Time) []runtimeiface.Event {
	c, known := m.containers[id]
	if _, gone := m.gone[id]; gone || known && c.rank >= to {
		return nil
	}
	var out []runtimeiface.Event
	if !known {
		if m.pods[sandbox] == "" {
			return nil // the next list knows more
		}
		c = thing{sandbox: sandbox, seen: time.Now()}
		out = m.tell(runtimeiface.ContainerMade, sandbox, id, when)
	}
	if to == rankRunning {
		out = append(out, m.tell(runtimeiface.ContainerStarted, c.sandbox, id, when)...)
	}
	if to == rankExited {
		out = append(out, m.tell(runtimeiface.ContainerStopped, c.sandbox, id, when)...)
	}
	c.rank = to
	m.containers[id] = c
	return out
}

func (m *model) containerGone(id string, when time.Time) []runtimeiface.Event {
	m.gone[id] = time.Now()
	c, known := m.containers[id]
	if !known {
		return nil
	}
	var out []runtimeiface.Event
	if c.rank == rankRunning {
		out = m.tell(runtimeiface.ContainerStopped, c.sandbox, id, when)
	}
	out = append(out, m.tell(runtimeiface.ContainerRemoved, c.sandbox, id, when)...)
	delete(m.containers, id)
	return out
}

// tell makes an event. A pod's times do not go back.
func (m *model) tell(t runtimeiface.EventType, sandbox, container string, when time.Time) []runtimeiface.Event {
	uid := m.pods[sandbox]
	if when.Before(m.last[uid]) {
		when = m.last[uid]
	}
	m.last[uid] = when
	return []runtimeiface.Event{{Type: t, PodUID: uid, SandboxID: sandbox, ContainerID: container, Time: when}}
}
