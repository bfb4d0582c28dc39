package podlifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// rig is a Manager on a Fake, within a synctest bubble.
type rig struct {
	t       testing.TB
	fake    *runtimetest.Fake
	m       *podlifecycle.Manager
	root    string
	volumes *fakeVolumes
	cgroups *fakeCgroups
	prober  *fakeProber
	tune    func(*podlifecycle.Config)
	cancel  context.CancelFunc
	done    chan error

	mu       sync.Mutex
	statuses []*corev1.Pod
}

// bubble runs f with virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func newRig(t testing.TB, images ...runtimetest.FakeImage) *rig {
	t.Helper()
	if len(images) == 0 {
		images = []runtimetest.FakeImage{{Ref: "web:1", Present: true}, {Ref: "web:2", Present: true}}
	}
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: images, WriteLogs: true})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	r := &rig{t: t, fake: fake, root: root, volumes: &fakeVolumes{root: root}, cgroups: &fakeCgroups{paths: map[string]bool{}}, prober: &fakeProber{}}
	return r
}

// start runs a new Manager, as after a restart of the agent.
func (r *rig) start() *rig {
	r.t.Helper()
	config := podlifecycle.Config{
		Runtime: r.fake, Root: r.root, NodeName: "node1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Volumes: r.volumes, Cgroups: r.cgroups, Prober: r.prober,
		OnStatus: func(pod *corev1.Pod) {
			r.mu.Lock()
			r.statuses = append(r.statuses, pod)
			r.mu.Unlock()
		},
	}
	if r.tune != nil {
		r.tune(&config)
	}
	m, err := podlifecycle.New(config)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.m, r.cancel, r.done = m, cancel, make(chan error, 1)
	go func() { r.done <- m.Run(ctx) }()
	r.t.Cleanup(r.end)
	return r
}

// end is stop for the end of a test that may have failed halfway.
func (r *rig) end() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Errorf("Run: %v", err)
	}
	r.cancel = nil
}

// stop ends the Manager, as a restart does; pods run on.
func (r *rig) stop() {
	r.end()
}

// loseJournal takes away what the agent, which has ended, wrote down.
func (r *rig) loseJournal() {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.root, "journal")); err != nil {
		r.t.Fatal(err)
	}
}

// kill is the sudden end of the agent: what it would have written at the end
// it has not.
func (r *rig) kill() {
	r.t.Helper()
	path := filepath.Join(r.root, "journal")
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.end()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) set(pods ...*corev1.Pod) { r.m.Set(source.Set{Pods: pods}) }

// settle waits until nothing more happens at this moment.
func (r *rig) settle() { synctest.Wait() }

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) pod(name string) *corev1.Pod {
	r.t.Helper()
	pod, err := r.m.Pod("default", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return pod
}

func (r *rig) phase(name string, want corev1.PodPhase) *corev1.Pod {
	r.t.Helper()
	pod := r.pod(name)
	if pod.Status.Phase != want {
		r.t.Fatalf("phase of %s is %s, want %s\n%s", name, pod.Status.Phase, want, r.why(name))
	}
	return pod
}

func (r *rig) ready(name string, want bool) *corev1.Pod {
	r.t.Helper()
	pod := r.pod(name)
	if got := isReady(pod); got != want {
		r.t.Fatalf("%s ready: %v, want %v\n%s", name, got, want, r.why(name))
	}
	return pod
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (r *rig) why(name string) string {
	e, err := r.m.Why("default", name)
	if err != nil {
		return err.Error()
	}
	return e.String()
}

// container gives the newest instance of a container in the runtime.
func (r *rig) container(name string) runtimeiface.Container {
	r.t.Helper()
	var found runtimeiface.Container
	for _, c := range r.fake.State().Containers {
		if c.Name == name && (found.ID == "" || c.Attempt >= found.Attempt) {
			found = c
		}
	}
	if found.ID == "" {
		r.t.Fatalf("no container %s in the runtime: %v", name, r.fake.State().Containers)
	}
	return found
}

func (r *rig) running() []string {
	var names []string
	for _, c := range r.fake.State().Containers {
		if c.State == runtimeiface.ContainerRunning {
			names = append(names, fmt.Sprintf("%s/%d", c.Name, c.Attempt))
		}
	}
	slices.Sort(names)
	return names
}

func (r *rig) wantRunning(want ...string) {
	r.t.Helper()
	if got := r.running(); !slices.Equal(got, want) {
		r.t.Fatalf("running %v, want %v", got, want)
	}
}

func status(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, s := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
		if s.Name == container {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

// newPod is a pod of one container "app" unless edits say otherwise.
func newPod(name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{container("app", "web:1")},
		},
	}
	for _, edit := range edits {
		edit(pod)
	}
	return pod
}

func container(name, image string) corev1.Container {
	return corev1.Container{Name: name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent}
}

func sidecar(name, image string) corev1.Container {
	c, always := container(name, image), corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

type fakeVolumes struct {
	root  string
	mu    sync.Mutex
	err   error
	calls []string
	files map[string]string // by pod, volume and path
}

var _ podlifecycle.Volumes = (*fakeVolumes)(nil)

func (v *fakeVolumes) note(call string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls = append(v.calls, call)
	return v.err
}

func (v *fakeVolumes) called(call string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.calls, call)
}

func (v *fakeVolumes) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

func (v *fakeVolumes) PodDir(uid types.UID) string { return filepath.Join(v.root, "pods", string(uid)) }
func (v *fakeVolumes) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(filepath.Join(v.root, "pods"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var uids []types.UID
	for _, e := range entries {
		uids = append(uids, types.UID(e.Name()))
	}
	return uids, err
}
func (v *fakeVolumes) Setup(_ context.Context, pod *corev1.Pod, _ volume.Objects) error {
	return v.note("setup " + pod.Name)
}
func (v *fakeVolumes) Update(_ context.Context, pod *corev1.Pod, _ volume.Objects) ([]string, error) {
	return nil, v.note("update " + pod.Name)
}
func (v *fakeVolumes) Mounts(context.Context, *corev1.Pod, *corev1.Container, []string) ([]specs.Mount, error) {
	return nil, nil
}
func (v *fakeVolumes) File(pod *corev1.Pod, volume, path string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text, ok := v.files[pod.Name+"/"+volume+"/"+path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}
func (v *fakeVolumes) Teardown(_ context.Context, uid types.UID) error {
	if err := v.note("teardown " + string(uid)); err != nil {
		return err
	}
	return os.RemoveAll(v.PodDir(uid))
}

type fakeCgroups struct {
	mu    sync.Mutex
	paths map[string]bool
	calls []string         // what was set, in order
	used  map[string]int64 // memory, by path
	err   error
}

func (c *fakeCgroups) Ensure(_ context.Context, path string, resources *specs.LinuxResources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths[path] = true
	c.calls = append(c.calls, "pod "+limits(*resources))
	return c.err
}

func (c *fakeCgroups) MemoryUsage(_ context.Context, path string) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	used, ok := c.used[path]
	if !ok {
		return 0, errors.New("not known")
	}
	return used, nil
}

func (c *fakeCgroups) Remove(_ context.Context, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.paths, path)
	return nil
}

func (c *fakeCgroups) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.paths)
}

// fakeProber answers by the command of an exec probe: the named switch.
type fakeProber struct {
	mu     sync.Mutex
	broken map[string]bool
	count  int
}

func (p *fakeProber) Probe(_ context.Context, target probe.Target, spec *corev1.Probe) (probe.Result, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	name := strings.Join(spec.Exec.Command, " ")
	if p.broken[name] {
		return probe.Failure, name + " says no", nil
	}
	return probe.Success, name + " says yes", nil
}

// asked is how many probes there were.
func (p *fakeProber) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *fakeProber) breaks(name string, broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = map[string]bool{}
	}
	p.broken[name] = broken
}

func execProbe(name string) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}
}

// staleRuntime shows nothing for a time, unless it is asked without end.
type staleRuntime struct {
	*runtimetest.Fake
	until time.Time
	looks atomic.Int32
}

func (s *staleRuntime) ListSandboxes(ctx context.Context, f runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	if time.Now().Before(s.until) && s.looks.Add(1) < 1000 {
		return nil, nil
	}
	return s.Fake.ListSandboxes(ctx, f)
}
