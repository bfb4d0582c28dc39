package cri_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// killPointsEnv is how many points are taken, chosen by the suite's seed; "all"
// takes all.
const killPointsEnv = "NODEKIT_KILL_POINTS"

const killPointsDefault = 8

var _ = Describe("the kill matrix of containerd", func() {
	It("holds at each call of a pod's life", func(ctx SpecContext) {
		n := newNode(GinkgoTB())
		p := newKiller(n)
		img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
		Expect(err).NotTo(HaveOccurred())
		l := &life{n: n, image: img.ID, uid: "clean"}
		Expect(l.live(ctx, p)).To(Succeed())
		points := p.calls()
		Expect(len(points)).To(BeNumerically(">", 20))
		all := len(points)
		if sample := killSample(); sample < all {
			random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 1))
			random.Shuffle(all, func(i, j int) { points[i], points[j] = points[j], points[i] })
			points = points[:sample]
		}
		var bad []string
		begin := time.Now()
		for i, point := range points {
			p.plan(point)
			l := &life{
				n: n, image: img.ID, uid: "killed-" + strconv.Itoa(i),
				twice: strings.HasPrefix(point, "StartContainer#") && strings.HasSuffix(point, " half-way"),
			}
			if err := l.live(ctx, p); err != nil {
				bad = append(bad, point+": "+err.Error())
				n.clear(ctx)
			}
			if !p.killed() {
				GinkgoWriter.Println("not met:", point)
			}
		}
		AddReportEntry("points", fmt.Sprintf("%d of %d, %v", len(points), all, time.Since(begin).Round(time.Second)))
		Expect(bad).To(BeEmpty(), strings.Join(bad, "\n"))
	}, NodeTimeout(time.Hour))
})

func killSample() int {
	switch v := os.Getenv(killPointsEnv); v {
	case "all":
		return 1 << 20
	case "":
		return killPointsDefault
	default:
		k, err := strconv.Atoi(v)
		Expect(err).NotTo(HaveOccurred())
		return k
	}
}

// life is a pod from its making to its removal. A call that found containerd
// gone is repeated.
type life struct {
	n          *node
	image, uid string
	attempt    uint32
	// twice: containerd v2.4.2 that is killed while it starts a container, whose
	// program is over before it is back, takes it for one that never ran.
	twice        bool
	sb, app, job string
}

func (l *life) live(ctx context.Context, p *killer) error {
	var rt *cri.Runtime
	err := p.until(ctx, func() (err error) {
		rt, err = cri.Dial(ctx, cri.Config{Endpoint: "unix://" + p.socket})
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = rt.Close() }()
	if err := os.MkdirAll(l.runsDir(), 0o755); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"RunSandbox", func() error { return l.runSandbox(ctx, rt) }},
		{"CreateContainer app", func() (err error) {
			l.app, err = rt.CreateContainer(ctx, l.sb, l.container("app", "trap 7 ; append /runs/app x ; forever"))
			return err
		}},
		{"CreateContainer job", func() (err error) {
			l.job, err = rt.CreateContainer(ctx, l.sb, l.container("job", "append /runs/job x ; exit 3"))
			return err
		}},
		{"StartContainer app", func() error { return rt.StartContainer(ctx, l.app) }},
		{"StartContainer job", func() error {
			// A caller that repeats the call may find that it has ended.
			if err := rt.StartContainer(ctx, l.job); !errors.Is(err, runtimeiface.ErrNotRunning) {
				return err
			}
			return nil
		}},
		{"end of job", func() error { return l.ended(ctx, rt, p, l.job, "job", 3) }},
		{"Exec", func() error {
			code, err := rt.Exec(ctx, l.app, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "5"}})
			if err == nil && code != 5 {
				err = fmt.Errorf("exit code %d", code)
			}
			return err
		}},
		{"UpdateContainer", func() error {
			limit := int64(64 << 20)
			return rt.UpdateContainer(ctx, l.app, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
		}},
		{"StopContainer", func() error { return rt.StopContainer(ctx, l.app, 20*time.Second) }},
		{"end of app", func() error { return l.ended(ctx, rt, p, l.app, "app", 7) }},
		{"RemoveContainer", func() error { return rt.RemoveContainer(ctx, l.job) }},
		{"StopSandbox", func() error { return rt.StopSandbox(ctx, l.sb) }},
		{"RemoveSandbox", func() error { return rt.RemoveSandbox(ctx, l.sb) }},
	} {
		if err := p.until(ctx, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := p.until(ctx, func() error { return l.verify(ctx, rt) }); err != nil {
			return fmt.Errorf("after %s: %w", step.name, err)
		}
	}
	return l.gone(ctx, rt, p)
}

// runSandbox goes on to the next attempt when containerd was killed half-way.
func (l *life) runSandbox(ctx context.Context, rt *cri.Runtime) (err error) {
	l.sb, err = rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
		Name: l.uid, Namespace: "test", UID: l.uid, Attempt: l.attempt, LogDirectory: filepath.Join(l.n.logs, l.uid),
	})
	if !errors.Is(err, runtimeiface.ErrInUse) {
		return err
	}
	list, lerr := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: l.uid})
	if lerr != nil {
		return lerr
	}
	for _, s := range list {
		if s.State == runtimeiface.SandboxReady {
			return fmt.Errorf("%w, but sandbox %s is ready", err, s.ID)
		}
		if err := rt.RemoveSandbox(ctx, s.ID); err != nil {
			return err
		}
	}
	l.attempt++
	return fmt.Errorf("%w: next attempt", runtimeiface.ErrUnavailable)
}

func (l *life) runsDir() string { return filepath.Join(l.n.logs, l.uid+".runs") }

func (l *life) runs(name string) int {
	data, _ := os.ReadFile(filepath.Join(l.runsDir(), name))
	return strings.Count(string(data), "x")
}

func (l *life) container(name, steps string) runtimeiface.ContainerSpec {
	return runtimeiface.ContainerSpec{
		Name: name, Image: l.image, Args: strings.Fields(steps), LogPath: name + ".log",
		Mounts: []specs.Mount{{Destination: "/runs", Type: "bind", Source: l.runsDir()}},
	}
}

// ended waits for an end and holds it against the truth. Of what ended while it
// was not there, containerd may not know how.
func (l *life) ended(ctx context.Context, rt *cri.Runtime, p *killer, id, name string, code int32) error {
	for range 2000 {
		c, err := rt.ContainerStatus(ctx, id)
		if err != nil {
			return err
		}
		if c.State == runtimeiface.ContainerExited && l.runs("app") > 0 {
			unknown := c.ExitCode == runtimeiface.ExitCodeUnknown && c.Reason == runtimeiface.ReasonUnknown && p.killed()
			if c.ExitCode != code && !unknown || l.runs(name) != 1 && !l.twice {
				return fmt.Errorf("%s ran %d times and ended with %d, %s", name, l.runs(name), c.ExitCode, c.Reason)
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("%s does not end", name)
}

// verify looks for a second instance of anything.
func (l *life) verify(ctx context.Context, rt *cri.Runtime) error {
	sandboxes, err := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: l.uid})
	if err != nil {
		return err
	}
	if len(sandboxes) > 1 || len(sandboxes) == 1 && sandboxes[0].ID != l.sb {
		return fmt.Errorf("sandboxes %+v instead of %s", sandboxes, l.sb)
	}
	containers, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: l.sb})
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range containers {
		if seen[c.Name] {
			return fmt.Errorf("two containers %s", c.Name)
		}
		seen[c.Name] = true
		if c.State == runtimeiface.ContainerUnknown {
			return fmt.Errorf("container %s is unknown", c.Name)
		}
	}
	for _, name := range []string{"app", "job"} {
		if n := l.runs(name); n > 1 && !l.twice || n > 2 {
			return fmt.Errorf("%s ran %d times", name, n)
		}
	}
	return nil
}

// gone looks for what a life that is over has left.
func (l *life) gone(ctx context.Context, rt *cri.Runtime, p *killer) error {
	sandboxes, err := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
	if err != nil {
		return err
	}
	containers, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{})
	if err != nil {
		return err
	}
	if len(sandboxes)+len(containers) > 0 {
		return fmt.Errorf("left behind: sandboxes %+v, containers %+v", sandboxes, containers)
	}
	var left []string
	for range 500 {
		if left = l.n.shims(); len(left) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(left) > p.unnoted {
		return fmt.Errorf("left behind: %q", left)
	}
	for _, process := range left {
		GinkgoWriter.Println("forgotten by containerd:", process)
		pid, err := strconv.Atoi(strings.Split(process, "/")[2])
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// clear takes away what a life has left, which was told.
func (n *node) clear(ctx context.Context) {
	list, _ := n.rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
	for _, s := range list {
		_ = n.rt.RemoveSandbox(ctx, s.ID)
	}
}

// shims are containerd's.
func (n *node) shims() []string {
	return slices.DeleteFunc(n.daemon.Processes(), func(p string) bool { return !strings.Contains(p, "containerd-shim") })
}

// killer stands between a Runtime and containerd, and kills containerd at one
// call: before it is passed on, once something of it can be seen, or before its
// answer is.
type killer struct {
	n       *node
	socket  string
	backend *grpc.ClientConn

	mu     sync.Mutex
	seen   []string // METHOD#N, of calls that change something
	counts map[string]int
	point  string // METHOD#N MOMENT, "" when done
	kills  int
	// unnoted are the shims that containerd had not noted when it was killed: when
	// it is back it knows nothing of them, and no call of the CRI reaches them.
	unnoted int
}

func newKiller(n *node) *killer {
	p := &killer{n: n, socket: filepath.Join(n.dir, "p.sock"), counts: map[string]int{}}
	var err error
	p.backend, err = grpc.NewClient("unix://"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(16<<20), grpc.WaitForReady(true)))
	Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("unix", p.socket)
	Expect(err).NotTo(HaveOccurred())
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(p.pass), grpc.MaxRecvMsgSize(16<<20))
	go func() { _ = server.Serve(listener) }()
	DeferCleanup(func() { server.Stop(); _ = p.backend.Close() })
	return p
}

// until repeats a call while containerd is not there.
func (p *killer) until(ctx context.Context, f func() error) error {
	for range 100 {
		err := f()
		if !errors.Is(err, runtimeiface.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return f()
}

func (p *killer) plan(point string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.point, p.counts, p.kills, p.unnoted = point, map[string]int{}, 0, 0
}

// killed tells that containerd was, in this life.
func (p *killer) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kills > 0
}

// calls are the points of what came so far: each call that changes something,
// and the first of each that asks.
func (p *killer) calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var points []string
	for _, call := range p.seen {
		method, count, _ := strings.Cut(call, "#")
		asks := strings.HasPrefix(method, "List") || strings.HasSuffix(method, "Status") || method == "Version" || method == "RuntimeConfig"
		if asks && count != "1" {
			continue
		}
		points = append(points, call+" before", call+" after")
		if method == "RunPodSandbox" || method == "StartContainer" {
			points = append(points, call+" half-way")
		}
	}
	return points
}

// at tells whether containerd shall die at this moment of a call.
func (p *killer) at(call, moment string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.point != call+" "+moment {
		return false
	}
	p.point = ""
	p.kills++
	return true
}

func (p *killer) kill() {
	p.n.daemon.Kill()
	p.unnoted = p.n.daemon.Unnoted()
	p.n.daemonStart()
}

// pass is a call of any method.
func (p *killer) pass(_ any, from grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(from)
	method := full[strings.LastIndexByte(full, '/')+1:]
	p.mu.Lock()
	p.counts[method]++
	call := method + "#" + strconv.Itoa(p.counts[method])
	p.seen = append(p.seen, call)
	p.mu.Unlock()
	down := status.Error(codes.Unavailable, "containerd was killed")

	var request frame
	if err := from.RecvMsg(&request); err != nil {
		return err
	}
	if p.at(call, "before") {
		p.kill()
		return down
	}
	ctx := from.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	to, err := p.backend.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return err
	}
	before := len(p.n.shims()) + p.ran()
	if err := to.SendMsg(&request); err != nil {
		return err
	}
	if err := to.CloseSend(); err != nil {
		return err
	}
	if p.at(call, "half-way") {
		for range 2000 {
			if len(p.n.shims())+p.ran() > before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		p.kill()
		return down
	}
	for {
		var answer frame
		if err := to.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if p.at(call, "after") {
			p.kill()
			return down
		}
		if err := from.SendMsg(&answer); err != nil {
			return err
		}
	}
}

// ran counts the starts of all programs.
func (p *killer) ran() int {
	files, _ := filepath.Glob(filepath.Join(p.n.logs, "*.runs", "*"))
	return len(files)
}

// frame is a message that nobody here reads; raw carries it.
type frame struct{ data []byte }

type raw struct{}

func (raw) Name() string                  { return "raw" }
func (raw) Marshal(v any) ([]byte, error) { return v.(*frame).data, nil }
func (raw) Unmarshal(data []byte, v any) error {
	v.(*frame).data = slices.Clone(data)
	return nil
}
