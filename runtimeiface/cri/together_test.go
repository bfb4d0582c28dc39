package cri_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

var _ = Describe("several containers on a CRI", func() {
	var (
		s   *server
		rt  *cri.Runtime
		ctx context.Context
		sb  string
	)
	BeforeEach(func() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
		DeferCleanup(cancel)
		s = newServer()
		rt = s.dial()
		var err error
		sb, err = rt.RunSandbox(ctx, podSpec("one"))
		Expect(err).NotTo(HaveOccurred())
	})
	three := []runtimeiface.ContainerSpec{containerSpec("a"), containerSpec("b"), containerSpec("c")}
	states := func() map[string]api.ContainerState {
		s.mu.Lock()
		defer s.mu.Unlock()
		out := map[string]api.ContainerState{}
		for _, c := range s.containers {
			out[c.Metadata.Name] = c.State
		}
		return out
	}
	all := func(state api.ContainerState) map[string]api.ContainerState {
		return map[string]api.ContainerState{"a": state, "b": state, "c": state}
	}

	It("start only once all are there, though the caller is gone", func() {
		release := make(chan struct{})
		s.mu.Lock()
		s.before = func(m string) error {
			if m == "StartContainer" {
				<-release
			}
			return nil
		}
		s.mu.Unlock()
		short, cancel := context.WithCancel(ctx)
		over := make(chan error, 1)
		go func() { _, err := rt.RunContainers(short, sb, three); over <- err }()
		Eventually(func() int { return s.count("StartContainer") }, "1m").Should(Equal(3))
		Expect(states()).To(Equal(all(api.ContainerState_CONTAINER_CREATED)))
		cancel()
		Eventually(over, "1m").Should(Receive(MatchError(context.Canceled)))
		close(release)
		Eventually(states, "1m").Should(Equal(all(api.ContainerState_CONTAINER_RUNNING)))
	})

	It("are taken for this call's when an answer is lost", func() {
		s.lose("CreateContainer")
		ids, err := rt.RunContainers(ctx, sb, three)
		Expect(err).NotTo(HaveOccurred())
		Expect(ids).To(HaveLen(3))
		Expect(s.count("CreateContainer")).To(Equal(3))
	})

	It("are undone when one cannot be created, past a time when the runtime does not answer", func() {
		var tries atomic.Int32
		s.mu.Lock()
		s.refuse = "b"
		s.before = func(m string) error {
			if m == "RemoveContainer" && tries.Add(1) <= 3 {
				return status.Error(codes.Unavailable, "the runtime starts")
			}
			return nil
		}
		s.mu.Unlock()
		before, err := rt.CreateContainer(ctx, sb, three[0])
		Expect(err).NotTo(HaveOccurred())
		ids, err := rt.RunContainers(ctx, sb, three)
		Expect(err).To(And(MatchError(runtimeiface.ErrInvalid), MatchError(ContainSubstring("container b"))))
		Expect(ids).To(BeNil())
		Expect(s.count("StartContainer")).To(BeZero())
		Expect(rt.ListContainers(ctx, runtimeiface.ContainerFilter{})).To(HaveExactElements(HaveField("ID", before)))
		Expect(tries.Load()).To(BeEquivalentTo(4))
	})

	It("do nothing if one is wrong, and nothing without one", func() {
		bad := containerSpec("bad")
		bad.WorkingDir = "relative"
		_, err := rt.RunContainers(ctx, sb, []runtimeiface.ContainerSpec{three[0], bad, three[0]})
		Expect(err).To(And(MatchError(ContainSubstring("container bad")), MatchError(ContainSubstring("WorkingDir")), MatchError(ContainSubstring("container a"))))
		Expect(s.count("CreateContainer")).To(BeZero())
		Expect(rt.RunContainers(ctx, "none", nil)).To(BeNil())
	})

	It("are listed however long the list: up to 16 MiB", func() {
		long := map[string]string{"long": strings.Repeat("x", 200<<10)}
		s.mu.Lock()
		for i := range 60 {
			id := fmt.Sprintf("c%d", i)
			s.inside[id] = sb
			s.containers[id] = &api.ContainerStatus{Id: id, Metadata: &api.ContainerMetadata{Name: id}, Annotations: long}
		}
		for i := range 59 {
			id := fmt.Sprintf("s%d", i)
			s.sandboxes[id] = &api.PodSandboxStatus{Id: id, Metadata: &api.PodSandboxMetadata{Uid: id}, Annotations: long}
		}
		s.mu.Unlock()
		Expect(rt.ListContainers(ctx, runtimeiface.ContainerFilter{})).To(HaveLen(60))
		Expect(rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{})).To(HaveLen(60))
		_, err := rt.Subscribe(ctx)
		Expect(err).NotTo(HaveOccurred())
	})
})

var _ = DescribeTable("cri-dockerd is asked for nothing that it leaves out", func(ctx SpecContext, field string, change func(*runtimeiface.ContainerSpec)) {
	s := newServer()
	s.name = "docker"
	rt := s.dial()
	sb, err := rt.RunSandbox(ctx, podSpec("one"))
	Expect(err).NotTo(HaveOccurred())
	spec := containerSpec("app")
	change(&spec)
	_, err = rt.CreateContainer(ctx, sb, spec)
	Expect(err).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring(field))))
	if spec.Resources != nil {
		spec.Resources = nil
		id, err := rt.CreateContainer(ctx, sb, spec)
		Expect(err).NotTo(HaveOccurred())
		Expect(rt.ReopenLog(ctx, id)).To(MatchError(runtimeiface.ErrNotSupported))
	}
},
	Entry(nil, "StopSignal", func(s *runtimeiface.ContainerSpec) { s.StopSignal = "SIGQUIT" }),
	Entry(nil, "Mounts[0].Type", func(s *runtimeiface.ContainerSpec) {
		s.Mounts = []specs.Mount{{Type: "image", Source: someImage, Destination: "/x"}}
	}),
	Entry(nil, "Resources.Unified", func(s *runtimeiface.ContainerSpec) {
		s.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}
	}),
	Entry(nil, "Resources.HugepageLimits", func(s *runtimeiface.ContainerSpec) {
		s.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}}
	}),
)

var _ = DescribeTable("a runtime is asked whether it can", func(ctx SpecContext, field string, pod func(*runtimeiface.SandboxSpec), ctr func(*runtimeiface.ContainerSpec)) {
	ranges := []specs.LinuxIDMapping{{HostID: 1 << 20, Size: 65536}}
	try := func(s *server) error {
		rt := s.dial()
		spec, c := podSpec("one"), containerSpec("app")
		if pod != nil {
			spec.UserNamespace = &runtimeiface.UserNamespace{UIDs: ranges, GIDs: ranges}
			pod(&spec)
		} else {
			ctr(&c)
		}
		sb, err := rt.RunSandbox(ctx, spec)
		if err == nil {
			_, err = rt.CreateContainer(ctx, sb, c)
		}
		return err
	}
	s := newServer()
	Expect(try(s)).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring(field))))
	Expect(s.count("CreateContainer")).To(BeZero())
	able := newServer()
	able.able = true
	err := try(able)
	if field == "UserNamespace.UIDs" {
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported), "one range at most")
		return
	}
	Expect(err).NotTo(HaveOccurred())
	request := able.heard("CreateContainer").(*api.CreateContainerRequest)
	told := request.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
	Expect(told.String()).To(Equal(request.SandboxConfig.Linux.SecurityContext.NamespaceOptions.UsernsOptions.String()))
	if pod != nil {
		Expect(told.Uids).To(HaveExactElements(And(HaveField("HostId", uint32(1<<20)), HaveField("Length", uint32(65536)))))
	}
},
	Entry(nil, "UserNamespace", func(*runtimeiface.SandboxSpec) {}, nil),
	Entry(nil, "UserNamespace.UIDs", func(s *runtimeiface.SandboxSpec) {
		s.UserNamespace.UIDs = append([]specs.LinuxIDMapping{{ContainerID: 70000, HostID: 1, Size: 1}}, s.UserNamespace.UIDs...)
	}, nil),
	Entry(nil, "Mounts[0].Options", nil, func(s *runtimeiface.ContainerSpec) {
		s.Mounts = []specs.Mount{{Type: "bind", Source: "/", Destination: "/x", Options: []string{"rbind", "rro"}}}
	}),
	Entry(nil, "Mounts[0].Options", nil, func(s *runtimeiface.ContainerSpec) {
		s.Mounts = []specs.Mount{{Type: "bind", Source: "/", Destination: "/x", Options: []string{"rbind", "nosuid"}}}
	}),
)
