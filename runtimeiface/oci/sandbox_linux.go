package oci

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// Names below Root and in a sandbox's directory.
const (
	sandboxesDir = "sandboxes"
	recordFile   = "record.json"
	stoppedFile  = "stopped"
	shmDir       = "shm"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
)

// sandboxRecord is written before anything of the sandbox is made.
type sandboxRecord struct {
	ID           string                   `json:"id"`
	Spec         runtimeiface.SandboxSpec `json:"spec"`
	CreatedAt    time.Time                `json:"createdAt"`
	IPs          []netip.Addr             `json:"ips,omitempty"`
	CgroupParent string                   `json:"cgroupParent"`
	// OwnCgroup: the backend chose the cgroup, and removes it.
	OwnCgroup bool `json:"ownCgroup,omitempty"`
	// Systemd: CgroupParent is a slice's, and containers have scopes.
	Systemd bool `json:"systemd,omitempty"`
	// Runtime is the OCI runtime that Spec.RuntimeHandler was.
	Runtime handlerRecord `json:"runtime"`
	// CNI is what plug-ins made the network with; nil for the built-in one.
	CNI *cniRecord `json:"cni,omitempty"`
}

// sandbox: what changes is guarded by Runtime.mu.
type sandbox struct {
	sandboxRecord
	spec runtimeiface.SandboxSpec
	dir  string
	seq  uint64

	shim       *shimClient // nil when there is none
	ready      bool
	stopping   bool // its shim's end is no surprise
	forwards   atomic.Int64
	containers map[string]*container
}

func (r *Runtime) newSandbox(rec sandboxRecord) *sandbox {
	return &sandbox{
		sandboxRecord: rec, spec: rec.Spec, dir: filepath.Join(r.cfg.Root, sandboxesDir, rec.ID),
		containers: map[string]*container{},
	}
}

func (s *sandbox) hostname() string {
	name := cmp.Or(s.spec.Hostname, s.spec.Name)
	if len(name) > 63 { // as Kubernetes v1.37.0 pkg/kubelet/kubelet_pods.go does
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// RunSandbox starts a shim in new namespaces and joins it to the network.
func (r *Runtime) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	if err := checkSandbox(spec, r.cfg); err != nil {
		return "", fmt.Errorf("run sandbox of %s/%s: %w", spec.Namespace, spec.Name, err)
	}
	spec = spec.Clone()
	type result struct {
		id   string
		made bool
	}
	identity := "sandbox/" + spec.UID + "/" + strconv.FormatUint(uint64(spec.Attempt), 10)
	res, err := finish(ctx, r, identity, func() (result, error) {
		if s := r.findSandbox(spec.UID, spec.Attempt); s != nil {
			if !r.isReady(s) {
				return result{}, fmt.Errorf("run sandbox of %s/%s: %w: sandbox %s, not ready, is attempt %d of this pod",
					spec.Namespace, spec.Name, runtimeiface.ErrInUse, s.ID, spec.Attempt)
			}
			return result{s.ID, false}, nil
		}
		s, err := r.makeSandbox(spec)
		if err != nil {
			return result{}, fmt.Errorf("run sandbox of %s/%s: %w", spec.Namespace, spec.Name, err)
		}
		return result{s.ID, true}, nil
	}, func(res result) {
		if res.made {
			r.undoSandbox(res.id)
		}
	})
	return res.id, err
}

// undoSandbox is for a caller that gave up, and so has no ID.
func (r *Runtime) undoSandbox(id string) {
	unlock, err := r.locks.lock(context.Background(), id)
	if err == nil {
		defer unlock()
		err = r.removeSandbox(id)
	}
	if err != nil {
		r.cfg.Logger.Error(err, "undo cancelled sandbox", "sandboxID", id)
	}
}

func (r *Runtime) makeSandbox(spec runtimeiface.SandboxSpec) (*sandbox, error) {
	if err := r.checkUserNamespace(spec); err != nil {
		return nil, err
	}
	warm := r.takeWarm(spec)
	s, err := r.makeSandboxWith(spec, warm)
	if warm != nil && errors.Is(err, errShimLost) { // it has died, and that is not the pod's fault
		return r.makeSandboxWith(spec, nil)
	}
	return s, err
}

// makeSandboxWith takes a shim that waits, or starts one if that is nil.
func (r *Runtime) makeSandboxWith(spec runtimeiface.SandboxSpec, warm *warmShim) (_ *sandbox, err error) {
	if err := r.redo(spec.UID); err != nil {
		r.keepForNext(warm)
		return nil, err
	}
	rec := sandboxRecord{ID: newID(), Spec: spec, CreatedAt: time.Now(), CgroupParent: spec.CgroupParent}
	if warm != nil {
		rec.ID = warm.id
	}
	rec.Runtime = r.handlers[spec.RuntimeHandler].handlerRecord
	rec.Systemd = r.cfg.CgroupDriver == systemdDriver
	if rec.CgroupParent == "" {
		rec.CgroupParent, rec.OwnCgroup = filepath.Join(r.cfg.CgroupRoot, "pod"+rec.ID[:32]), true
		if rec.Systemd {
			rec.CgroupParent = podSlice(r.cfg.CgroupRoot, "pod"+rec.ID[:32])
		}
	}
	if err := r.net.reserve(&rec); err != nil {
		r.keepForNext(warm)
		return nil, err
	}
	s := r.newSandbox(rec)
	if warm != nil {
		r.setShim(s, warm.client)
	}
	defer func() {
		if err != nil {
			r.undo(s)
		}
	}()
	lasting, err := r.writeSandbox(s)
	if err != nil {
		return nil, err
	}
	faultPoint("sandbox written")
	// Side by side with the start, and waited for in any case: what is undone must
	// not be made at the same time.
	grouped := make(chan error, 1)
	go func() {
		if !s.OwnCgroup || s.Systemd {
			grouped <- nil
			return
		}
		grouped <- r.cgroups.make(s.CgroupParent)
	}()
	err = r.startSandbox(s)
	if gerr := <-grouped; err == nil && gerr != nil {
		err = fmt.Errorf("make cgroup: %w", gerr)
	}
	faultPoint("sandbox made")
	if err == nil {
		err = lasting()
	}
	if err == nil {
		err = r.commitSandbox(s)
	}
	if err != nil {
		return nil, err
	}
	faultPoint("sandbox started")
	r.mu.Lock()
	r.seq++
	s.seq, s.ready = r.seq, true
	r.sandboxes[s.ID] = s
	r.mu.Unlock()
	// Not earlier: an end of the shim before this is this call's error.
	r.mourn(s, s.shim)
	r.event(runtimeiface.SandboxStarted, s, "", time.Now())
	r.cfg.Logger.Info("sandbox started", "pod", spec.Namespace+"/"+spec.Name, "podUID", spec.UID, "sandboxID", s.ID)
	return s, nil
}

// startSandbox makes the namespaces, the network and the shared memory.
func (r *Runtime) startSandbox(s *sandbox) error {
	hostname := ""
	if s.spec.Network != runtimeiface.NamespaceHost {
		hostname = s.hostname()
	}
	if s.shim == nil {
		client, err := r.startShim(s.dir, namespacesOf(s.spec))
		if err != nil {
			return err
		}
		r.setShim(s, client)
	}
	client := s.shim
	ctx, cancel := context.WithTimeout(context.Background(), shimWait)
	defer cancel()
	faultPoint("shim started")
	var sysctls, netSysctls []string
	for _, name := range slices.Sorted(maps.Keys(s.spec.Sysctls)) {
		if strings.HasPrefix(name, "net.") {
			netSysctls = append(netSysctls, name, s.spec.Sysctls[name])
		} else {
			sysctls = append(sysctls, name, s.spec.Sysctls[name])
		}
	}
	if s.spec.UserNamespace != nil {
		if err := r.holdUserNamespace(ctx, s, client, hostname, sysctls); err != nil {
			return err
		}
		hostname, sysctls = "", nil
	}
	// The network is made while the shim comes up, and waited for in any case:
	// what is undone must not be made at the same time.
	attached := make(chan error, 1)
	go func() {
		if s.spec.Network == runtimeiface.NamespaceHost {
			attached <- nil
			return
		}
		attached <- r.joinNetwork(s, client.pid, netSysctls)
	}()
	err := r.setUp(ctx, s, client, append([]string{hostname}, sysctls...))
	faultPoint("shim set up")
	return cmp.Or(err, <-attached)
}

// commitSandbox watches the shim and has it outlive this process.
func (r *Runtime) commitSandbox(s *sandbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), shimWait)
	defer cancel()
	if _, err := s.shim.call(ctx, shim.OpWatch); err != nil {
		return fmt.Errorf("watch shim: %w", err)
	}
	faultPoint("shim watched")
	if _, err := s.shim.call(ctx, shim.OpCommit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	faultPoint("sandbox committed")
	return nil
}

// joinNetwork has the addresses on disk before the sandbox counts.
func (r *Runtime) joinNetwork(s *sandbox, pid int, sysctls []string) error {
	ips, err := r.net.attach(&s.sandboxRecord, pid, sysctls)
	if err != nil || slices.Equal(ips, s.IPs) {
		return err
	}
	s.IPs = ips
	data, err := json.Marshal(s.sandboxRecord)
	if err != nil {
		return err
	}
	return shim.WriteFile(s.dir, recordFile, data)
}

// setUp makes the shared memory and has the shim set hostname and parameters.
func (r *Runtime) setUp(ctx context.Context, s *sandbox, client *shimClient, setup []string) error {
	if s.spec.IPC != runtimeiface.NamespaceHost {
		if err := mountShm(filepath.Join(s.dir, shmDir), r.cfg.ShmBytes, s.spec.UserNamespace); err != nil {
			return err
		}
		faultPoint("shm mounted")
	}
	if _, err := client.call(ctx, shim.OpSetup, setup...); err != nil {
		return fmt.Errorf("set up shim: %w", err)
	}
	return nil
}

func (r *Runtime) setShim(s *sandbox, client *shimClient) {
	r.mu.Lock()
	s.shim = client
	r.mu.Unlock()
	go client.read(func(m shim.Message) { r.shimEvent(s, m) })
}

// StopSandbox kills the containers and the shim, and takes the network away.
func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	return finishErr(ctx, r, id, func() error {
		if s := r.sandbox(id); s != nil {
			return r.stopSandbox(s)
		}
		return nil
	})
}

// stopSandbox is called with the sandbox's lock held.
func (r *Runtime) stopSandbox(s *sandbox) error {
	if !r.isReady(s) {
		return nil
	}
	// The mark first: after a kill here the next Open finishes.
	if err := shim.WriteFile(s.dir, stoppedFile, nil); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.ID, err)
	}
	faultPoint("sandbox marked stopped")
	if err := r.endSandbox(s); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.ID, err)
	}
	faultPoint("sandbox ended")
	r.notReady(s)
	return nil
}

// notReady tells what endSandbox did.
func (r *Runtime) notReady(s *sandbox) {
	r.markUnknown(s)
	r.mu.Lock()
	s.ready = false
	ips := s.IPs
	s.IPs = nil
	r.mu.Unlock()
	r.net.release(s.ID, ips)
	r.event(runtimeiface.SandboxStopped, s, "", time.Now())
	r.cfg.Logger.Info("sandbox stopped", "pod", s.spec.Namespace+"/"+s.spec.Name, "podUID", s.spec.UID, "sandboxID", s.ID)
}

// endSandbox ends all processes of the sandbox and takes away what is not a
// file. It can be repeated, and works on what was half made.
func (r *Runtime) endSandbox(s *sandbox) error {
	r.mu.Lock()
	s.stopping = true
	client := s.shim
	s.shim = nil
	r.mu.Unlock()
	var errs []error
	told := false
	netNS := r.net.hold(&s.sandboxRecord, s.dir, client)
	if client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), shimWait)
		_, err := client.call(ctx, shim.OpShutdown)
		cancel()
		if told = err == nil; told {
			waitGone(s.dir)
		}
		client.close()
	}
	faultPoint("shim told to end")
	errs = append(errs, killShim(s.dir))
	faultPoint("shim dead")
	if client != nil {
		reapShim(client.own)
	}
	if !told {
		// A shim that was killed leaves the OCI runtime that it called.
		errs = append(errs, killStrays(r.containerDirs(s)))
	}
	for _, id := range r.containerDirs(s) {
		errs = append(errs, r.endContainer(s, id))
		faultPoint("container ended")
	}
	if s.OwnCgroup {
		errs = append(errs, r.removeCgroup(s))
	}
	faultPoint("sandbox cgroup gone")
	errs = append(errs, r.net.detach(&s.sandboxRecord, netNS))
	faultPoint("sandbox off network")
	errs = append(errs, unmount(filepath.Join(s.dir, shmDir)))
	faultPoint("shm unmounted")
	return errors.Join(errs...)
}

// waitGone gives a shim that said it ends a moment to do so.
func waitGone(dir string) {
	for i := 0; i < 100 && shimAlive(dir); i++ {
		time.Sleep(200 * time.Microsecond)
	}
}

// RemoveSandbox stops the sandbox and forgets it with its containers.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	return finishErr(ctx, r, id, func() error { return r.removeSandbox(id) })
}

// removeSandbox is called with the sandbox's lock held.
func (r *Runtime) removeSandbox(id string) error {
	s := r.sandbox(id)
	if s == nil {
		return nil
	}
	if err := r.stopSandbox(s); err != nil {
		return err
	}
	if err := r.destroySandbox(s); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	r.mu.Lock()
	gone := slices.Sorted(maps.Keys(s.containers))
	for _, cid := range gone {
		delete(r.containers, cid)
	}
	s.containers = map[string]*container{}
	delete(r.sandboxes, id)
	r.mu.Unlock()
	for _, cid := range gone {
		r.event(runtimeiface.ContainerRemoved, s, cid, time.Now())
	}
	r.event(runtimeiface.SandboxRemoved, s, "", time.Now())
	return nil
}

// destroySandbox leaves nothing. It can be repeated, and works on what was half
// made.
func (r *Runtime) destroySandbox(s *sandbox) error {
	if err := os.Remove(filepath.Join(s.dir, shim.CommittedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	faultPoint("sandbox not committed")
	if err := r.endSandbox(s); err != nil {
		return err
	}
	for _, id := range r.containerDirs(s) {
		if err := r.wipeContainer(s, id); err != nil {
			return err
		}
	}
	faultPoint("containers wiped")
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	faultPoint("sandbox files gone")
	r.net.release(s.ID, s.IPs)
	return nil
}

func (r *Runtime) event(t runtimeiface.EventType, s *sandbox, containerID string, at time.Time) {
	r.hub.publish(runtimeiface.Event{Type: t, PodUID: s.spec.UID, SandboxID: s.ID, ContainerID: containerID, Time: at})
}

// newID is like those of Docker and containerd: 64 hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
