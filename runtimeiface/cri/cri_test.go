package cri_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

const someImage = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func podSpec(uid string) runtimeiface.SandboxSpec {
	return runtimeiface.SandboxSpec{Name: "pod", Namespace: "test", UID: uid}
}

func containerSpec(name string) runtimeiface.ContainerSpec {
	return runtimeiface.ContainerSpec{Name: name, Image: someImage}
}

var _ = Describe("a Runtime on a CRI", func() {
	var (
		s   *server
		rt  *cri.Runtime
		ctx context.Context
	)
	BeforeEach(func() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
		DeferCleanup(cancel)
		s = newServer()
		rt = s.dial()
	})

	run := func(uid string) string {
		GinkgoHelper()
		id, err := rt.RunSandbox(context.Background(), podSpec(uid))
		Expect(err).NotTo(HaveOccurred())
		return id
	}
	create := func(sandbox, name string) string {
		GinkgoHelper()
		id, err := rt.CreateContainer(context.Background(), sandbox, containerSpec(name))
		Expect(err).NotTo(HaveOccurred())
		return id
	}

	DescribeTable("gives gRPC's codes as errors of runtimeiface",
		func(code codes.Code, want error) {
			s.fail("ContainerStatus", status.Error(code, "because"))
			_, err := rt.ContainerStatus(context.Background(), "x")
			Expect(err).To(MatchError(want))
			Expect(err).To(MatchError(ContainSubstring("because")))
			Expect(err.Error()).NotTo(ContainSubstring("rpc error"))
		},
		Entry(nil, codes.NotFound, runtimeiface.ErrNotFound),
		Entry(nil, codes.InvalidArgument, runtimeiface.ErrInvalid),
		Entry(nil, codes.Unimplemented, runtimeiface.ErrNotSupported),
		Entry(nil, codes.Unavailable, runtimeiface.ErrUnavailable),
		Entry(nil, codes.DeadlineExceeded, runtimeiface.ErrUnavailable),
		Entry(nil, codes.Canceled, runtimeiface.ErrUnavailable),
		Entry(nil, codes.AlreadyExists, runtimeiface.ErrInUse),
	)

	It("ends a call that is not answered", func() {
		release := make(chan struct{})
		defer close(release)
		s.mu.Lock()
		s.before = func(m string) error {
			if m == "ContainerStatus" {
				<-release
			}
			return nil
		}
		s.mu.Unlock()
		rt = s.dial(func(c *cri.Config) { c.Timeout = 50 * time.Millisecond })
		_, err := rt.ContainerStatus(context.Background(), "x")
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
	})

	Describe("an answer that is lost", func() {
		It("of a run is found by looking", func() {
			s.lose("RunPodSandbox")
			id := run("one")
			Expect(s.count("RunPodSandbox")).To(Equal(1))
			Expect(run("one")).To(Equal(id))
			Expect(s.count("RunPodSandbox")).To(Equal(1))
		})

		It("of a create is found by looking", func() {
			sb := run("one")
			s.lose("CreateContainer")
			id := create(sb, "app")
			Expect(create(sb, "app")).To(Equal(id))
			Expect(s.count("CreateContainer")).To(Equal(1))
		})

		It("of a start is found out by starting again", func() {
			id := create(run("one"), "app")
			s.lose("StartContainer")
			Expect(rt.StartContainer(context.Background(), id)).To(Succeed())
			Expect(rt.StartContainer(context.Background(), id)).To(Succeed())
		})
	})

	It("lets a run go on whose caller is gone, and gives it to the next", func() {
		release := make(chan struct{})
		s.mu.Lock()
		s.before = func(m string) error {
			if m == "RunPodSandbox" {
				<-release
			}
			return nil
		}
		s.mu.Unlock()
		short, cancel := context.WithCancel(ctx)
		time.AfterFunc(20*time.Millisecond, cancel)
		_, err := rt.RunSandbox(short, podSpec("one"))
		Expect(err).To(MatchError(context.Canceled))
		second := make(chan string)
		go func() {
			defer GinkgoRecover()
			second <- run("one")
		}()
		Consistently(second, "50ms").ShouldNot(Receive())
		close(release)
		Eventually(second, "1m").Should(Receive())
		Expect(s.count("RunPodSandbox")).To(Equal(1))
	})

	It("tries again while a name is still reserved", func() {
		var once sync.Once
		s.mu.Lock()
		s.before = func(m string) (err error) {
			if m == "RunPodSandbox" {
				once.Do(func() { err = status.Error(codes.Unknown, `name "pod" is reserved for "gone"`) })
			}
			return err
		}
		s.mu.Unlock()
		run("one")
		Expect(s.count("RunPodSandbox")).To(Equal(2))
	})

	It("makes one sandbox of calls at once", func() {
		ids := make([]string, 20)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				defer GinkgoRecover()
				ids[i] = run("one")
			})
		}
		wg.Wait()
		Expect(ids).To(HaveEach(ids[0]))
		Expect(s.count("RunPodSandbox")).To(Equal(1))
	})

	It("leaves nothing of a run that failed", func() {
		spec := podSpec("one")
		spec.Annotations = map[string]string{"fail": "yes"}
		_, err := rt.RunSandbox(context.Background(), spec)
		Expect(err).To(MatchError(ContainSubstring("the network is down")))
		Expect(rt.ListSandboxes(context.Background(), runtimeiface.SandboxFilter{})).To(BeEmpty())
	})

	It("does not run an identity anew whose sandbox has stopped", func() {
		Expect(rt.StopSandbox(context.Background(), run("one"))).To(Succeed())
		_, err := rt.RunSandbox(context.Background(), podSpec("one"))
		Expect(err).To(MatchError(runtimeiface.ErrInUse))
	})

	It("names a handler that the runtime does not have", func() {
		s.fail("RunPodSandbox", status.Error(codes.Unknown, "no runtime for it"))
		spec := podSpec("one")
		spec.RuntimeHandler = "kata"
		_, err := rt.RunSandbox(context.Background(), spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("RuntimeHandler")))
	})

	It("comes back after a restart of the runtime, with its subscription", func() {
		events, err := rt.Subscribe(ctx)
		Expect(err).NotTo(HaveOccurred())
		s.stop()
		_, err = rt.Version(ctx)
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
		s.start()
		Eventually(func() error { _, err := rt.Version(ctx); return err }, "1m", "10ms").Should(Succeed())
		id := run("one")
		Eventually(events, "1m").Should(Receive(And(
			HaveField("Type", runtimeiface.SandboxStarted), HaveField("SandboxID", id), HaveField("PodUID", "one"))))
	})

	It("takes messages of 16 MiB, and no larger ones", func() {
		id := create(run("one"), "app")
		s.padding = strings.Repeat("x", 16<<20)
		_, err := rt.ContainerStatus(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		s.padding += strings.Repeat("x", 1<<20)
		_, err = rt.ContainerStatus(ctx, id)
		Expect(err).To(MatchError(ContainSubstring("larger than max")))
	})

	It("asks for the status of what changed only", func() {
		sb := run("one")
		first, second := create(sb, "a"), create(sb, "b")
		Expect(rt.StartContainer(ctx, first)).To(Succeed())
		list := func() []runtimeiface.Container {
			GinkgoHelper()
			list, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{})
			Expect(err).NotTo(HaveOccurred())
			return list
		}
		Expect(list()).To(HaveExactElements(
			And(HaveField("ID", first), HaveField("PID", 7), HaveField("Cgroup", "/pods/x")), HaveField("ID", second)))
		asked := s.count("ContainerStatus")
		list()
		Expect(s.count("ContainerStatus")).To(Equal(asked))
		Expect(rt.StartContainer(ctx, second)).To(Succeed())
		Expect(list()[1].State).To(Equal(runtimeiface.ContainerRunning))
		Expect(s.count("ContainerStatus")).To(Equal(asked + 1))
	})

	It("carries labels, and hides those that are its own", func() {
		spec := podSpec("one")
		spec.Labels = map[string]string{"a": "b", "io.kubernetes.pod.name": "pod"}
		id, err := rt.RunSandbox(ctx, spec)
		Expect(err).NotTo(HaveOccurred())
		told := s.heard("RunPodSandbox").(*api.RunPodSandboxRequest).Config
		Expect(told.Labels).To(HaveKeyWithValue("io.kubernetes.pod.uid", "one"))
		got, err := rt.SandboxStatus(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Labels).To(Equal(spec.Labels))
		Expect(got.Annotations).To(BeEmpty())

		spec.UID, spec.Labels = "two", map[string]string{"io.kubernetes.pod.uid": "other"}
		_, err = rt.RunSandbox(ctx, spec)
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
	})

	It("tells the sandbox's own spec again with each container, also after a restart of the caller", func() {
		spec := podSpec("one")
		spec.LogDirectory, spec.Hostname = filepath.Join(GinkgoT().TempDir(), "logs"), "host"
		spec.DNS = &runtimeiface.DNS{Servers: []string{"192.0.2.1"}}
		spec.PortMappings = []runtimeiface.PortMapping{{Protocol: "UDP", ContainerPort: 53, HostPort: 5353}}
		spec.Sysctls, spec.PID = map[string]string{"net.a": "1"}, runtimeiface.NamespacePod
		id, err := rt.RunSandbox(ctx, spec)
		Expect(err).NotTo(HaveOccurred())
		other := s.dial()
		c := containerSpec("app")
		c.LogPath = "app/0.log"
		_, err = other.CreateContainer(ctx, id, c)
		Expect(err).NotTo(HaveOccurred())
		again := s.heard("CreateContainer").(*api.CreateContainerRequest)
		Expect(again.SandboxConfig.String()).To(Equal(s.heard("RunPodSandbox").(*api.RunPodSandboxRequest).Config.String()))
		Expect(again.Config.Linux.SecurityContext.NamespaceOptions.Pid).To(Equal(api.NamespaceMode_POD))
		Expect(filepath.Join(spec.LogDirectory, "app")).To(BeADirectory())
	})

	DescribeTable("rounds grace up to seconds", func(grace time.Duration, want int64) {
		id := create(run("one"), "app")
		Expect(rt.StartContainer(ctx, id)).To(Succeed())
		Expect(rt.StopContainer(ctx, id, grace)).To(Succeed())
		Expect(s.heard("StopContainer").(*api.StopContainerRequest).Timeout).To(Equal(want))
	},
		Entry(nil, time.Duration(0), int64(0)), Entry(nil, -time.Second, int64(0)), Entry(nil, time.Millisecond, int64(1)),
		Entry(nil, time.Second, int64(1)), Entry(nil, 1001*time.Millisecond, int64(2)),
	)

	It("makes Exited of a container that was stopped before it ran, and of one whose sandbox was", func() {
		sb := run("one")
		alone, together := create(sb, "a"), create(sb, "b")
		events, err := rt.Subscribe(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(rt.StopContainer(ctx, alone, 0)).To(Succeed())
		Eventually(events, "1m").Should(Receive(And(HaveField("Type", runtimeiface.ContainerStopped), HaveField("ContainerID", alone))))
		Expect(rt.StartContainer(ctx, alone)).To(MatchError(runtimeiface.ErrNotRunning))
		Expect(rt.ListContainers(ctx, runtimeiface.ContainerFilter{State: runtimeiface.ContainerCreated})).To(HaveExactElements(HaveField("ID", together)))
		Expect(rt.StopSandbox(ctx, sb)).To(Succeed())
		other := s.dial() // knows of no stop
		Expect(other.ListContainers(ctx, runtimeiface.ContainerFilter{State: runtimeiface.ContainerExited})).To(HaveLen(2))
	})

	It("tells process and cgroup of a sandbox while it is ready", func() {
		sb := run("one")
		Expect(rt.SandboxStatus(ctx, sb)).To(And(HaveField("PID", 42), HaveField("Cgroup", "/pods/pause")))
		Expect(rt.StopSandbox(ctx, sb)).To(Succeed())
		Expect(rt.SandboxStatus(ctx, sb)).To(And(HaveField("PID", 0), HaveField("Cgroup", "")))
	})

	It("takes what it did not make as it is", func() {
		s.sandboxes["foreign"] = &api.PodSandboxStatus{Id: "foreign", Metadata: &api.PodSandboxMetadata{Uid: "u"}, Labels: map[string]string{"io.kubernetes.pod.uid": "u"}}
		got, err := rt.SandboxStatus(ctx, "foreign")
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Labels).To(HaveKeyWithValue("io.kubernetes.pod.uid", "u"))
		_, err = rt.CreateContainer(ctx, "foreign", containerSpec("app"))
		Expect(err).NotTo(HaveOccurred())
	})

	Describe("events", func() {
		It("come from the runtime, once, and not from before", func() {
			s.mu.Lock()
			s.events = make(chan *api.ContainerEventResponse, 10)
			s.mu.Unlock()
			rt = s.dial(func(c *cri.Config) { c.PollPeriod = time.Hour })
			events, err := rt.Subscribe(ctx)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() int { return s.count("GetContainerEvents") }, "1m").Should(Equal(1))
			pod := &api.PodSandboxStatus{Id: "sb", Metadata: &api.PodSandboxMetadata{Uid: "u"}}
			send := func(kind api.ContainerEventType, id string, at time.Time) {
				s.events <- &api.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: at.UnixNano(), PodSandboxStatus: pod}
			}
			send(api.ContainerEventType_CONTAINER_STARTED_EVENT, "old", time.Now().Add(-time.Hour))
			s.mu.Lock()
			s.sandboxes["sb"] = pod
			s.mu.Unlock()
			send(api.ContainerEventType_CONTAINER_CREATED_EVENT, "sb", time.Now())
			send(api.ContainerEventType_CONTAINER_STARTED_EVENT, "sb", time.Now())
			for _, kind := range []api.ContainerEventType{0, 1, 2, 2} {
				send(kind, "c", time.Now())
			}
			var got []runtimeiface.EventType
			for range 4 {
				var e runtimeiface.Event
				Eventually(events, "1m").Should(Receive(&e))
				got = append(got, e.Type)
				Expect(e.PodUID).To(Equal("u"))
			}
			Expect(got).To(Equal([]runtimeiface.EventType{
				runtimeiface.SandboxStarted, runtimeiface.ContainerMade, runtimeiface.ContainerStarted, runtimeiface.ContainerStopped,
			}))
		})

		It("come from lists where the runtime has none", func() {
			before := run("before")
			events, err := rt.Subscribe(ctx)
			Expect(err).NotTo(HaveOccurred())
			sb := run("one")
			id := create(sb, "app")
			Expect(rt.StartContainer(ctx, id)).To(Succeed())
			next := func(want runtimeiface.EventType) runtimeiface.Event {
				GinkgoHelper()
				var e runtimeiface.Event
				Eventually(events, "1m").Should(Receive(&e))
				for e.Type != want {
					Eventually(events, "1m").Should(Receive(&e))
				}
				return e
			}
			Expect(next(runtimeiface.ContainerStarted).ContainerID).To(Equal(id))
			Expect(rt.RemoveSandbox(ctx, sb)).To(Succeed())
			Expect(next(runtimeiface.SandboxRemoved).SandboxID).To(Equal(sb))
			Expect(rt.RemoveSandbox(ctx, before)).To(Succeed())
			Expect(next(runtimeiface.SandboxRemoved).SandboxID).To(Equal(before))
		})

		It("come from lists where the runtime ends the stream at once, and no faster than otherwise", func() {
			s.events = make(chan *api.ContainerEventResponse)
			close(s.events)
			rt = s.dial(func(c *cri.Config) { c.PollPeriod, c.RelistPeriod = time.Hour, time.Hour })
			lists := s.count("ListContainers")
			_, err := rt.Subscribe(ctx)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() int { return s.count("GetContainerEvents") }, "1m").Should(Equal(1))
			Consistently(func() int { return s.count("GetContainerEvents") }, "500ms").Should(Equal(1))
			Expect(s.count("ListContainers") - lists).To(BeNumerically("<=", 2))
		})

		It("end with the Runtime, and nothing is left of it", func() {
			ignore := goleak.IgnoreCurrent()
			rt = s.dial()
			events, err := rt.Subscribe(context.Background())
			Expect(err).NotTo(HaveOccurred())
			Expect(rt.Close()).To(Succeed())
			Eventually(events, "1m").Should(BeClosed())
			_, err = rt.Version(ctx)
			Expect(errors.Is(err, runtimeiface.ErrUnavailable)).To(BeTrue(), "%v", err)
			_, err = rt.RunSandbox(ctx, podSpec("one"))
			Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
			Eventually(func() error { return goleak.Find(ignore) }, "1m", "20ms").Should(Succeed())
		})
	})
})

var _ = Describe("Dial", func() {
	It("fails where nothing answers", func(ctx SpecContext) {
		_, err := cri.Dial(ctx, cri.Config{Endpoint: "unix://" + filepath.Join(GinkgoT().TempDir(), "none")})
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
	}, NodeTimeout(5*time.Minute))
})
