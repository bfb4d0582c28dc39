package podlifecycle

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/runtimeiface"
)

// usersPerPod is how many user and group IDs a pod of its own user namespace
// has, as with the kubelet by default (Kubernetes v1.37.0
// pkg/kubelet/userns/userns_manager.go).
const usersPerPod = 1 << 16

// UserIDs are user and group IDs of the node, First and those behind it.
type UserIDs struct {
	// First is a multiple of 65536, and not 0: pods must not have the node's own.
	First uint32
	// Count is a multiple of 65536. A pod gets 65536.
	Count uint32
}

// complete gives every ID from 65536 on for the zero value, but the last pod's,
// which would have 4294967295, that is no ID.
func (u UserIDs) complete() (UserIDs, error) {
	if u == (UserIDs{}) {
		return UserIDs{First: usersPerPod, Count: 1<<32 - 2*usersPerPod}, nil
	}
	switch {
	case u.First == 0 || u.First%usersPerPod != 0:
		return u, fmt.Errorf("UserIDs.First must be a multiple of %d, and not 0: %d", usersPerPod, u.First)
	case u.Count == 0 || u.Count%usersPerPod != 0:
		return u, fmt.Errorf("UserIDs.Count must be a multiple of %d, and not 0: %d", usersPerPod, u.Count)
	case uint64(u.First)+uint64(u.Count) > 1<<32-usersPerPod:
		return u, fmt.Errorf("UserIDs must end before %d: %d from %d on", uint64(1<<32-usersPerPod), u.Count, u.First)
	}
	return u, nil
}

// users remembers which pod has which IDs. Of the manager's goroutine alone.
type users struct {
	from  UserIDs
	byPod map[types.UID]uint32
	taken map[uint32]types.UID
}

func newUsers(from UserIDs) *users {
	return &users{from: from, byPod: map[types.UID]uint32{}, taken: map[uint32]types.UID{}}
}

var errNoUsers = errors.New("no range of user IDs is free")

// take gives the pod the IDs that it has, or the lowest that are free.
func (u *users) take(uid types.UID) (first uint32, err error) {
	if first, ok := u.byPod[uid]; ok {
		return first, nil
	}
	for first := u.from.First; first-u.from.First < u.from.Count; first += usersPerPod {
		if _, taken := u.taken[first]; !taken {
			u.keep(uid, first)
			return first, nil
		}
	}
	return 0, errNoUsers
}

// keep notes what a pod has, whoever gave it; another that is said to have it
// too gets others.
func (u *users) keep(uid types.UID, first uint32) {
	if first == 0 {
		return
	}
	if other, ok := u.taken[first]; ok && other != uid {
		delete(u.byPod, other)
	}
	if before, ok := u.byPod[uid]; ok && before != first {
		delete(u.taken, before)
	}
	u.byPod[uid], u.taken[first] = first, uid
}

// free takes the pod's IDs back.
func (u *users) free(uid types.UID) {
	first, ok := u.byPod[uid]
	if delete(u.byPod, uid); ok && u.taken[first] == uid {
		delete(u.taken, first)
	}
}

// ownUsers tells whether the pod has a user namespace of its own.
func ownUsers(pod *corev1.Pod) bool {
	return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers
}

// giveUsers sees to it that a pod that wants them has IDs, or tells why not.
func (m *Manager) giveUsers(w *worker, pod *corev1.Pod) string {
	if !ownUsers(pod) {
		return ""
	}
	first, err := m.users.take(w.uid)
	if err != nil {
		return fmt.Sprintf("hostUsers is false, and %v: %d are given out", err, len(m.users.taken))
	}
	w.mu.Lock()
	w.users = first
	w.mu.Unlock()
	return ""
}

// mapUsers makes the sandbox's user namespace.
func (w *worker) mapUsers(spec *runtimeiface.SandboxSpec) error {
	w.mu.Lock()
	first := w.users
	w.mu.Unlock()
	if first == 0 {
		return errNoUsers // never the node's own
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: usersPerPod}}
	spec.UserNamespace = &runtimeiface.UserNamespace{UIDs: ids, GIDs: ids}
	spec.Annotations[AnnotationUsers] = strconv.FormatUint(uint64(first), 10)
	return nil
}

// usersOf gives the IDs that a sandbox was made with, 0 for none.
func usersOf(s runtimeiface.Sandbox) uint32 {
	first, err := strconv.ParseUint(s.Annotations[AnnotationUsers], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(first)
}
