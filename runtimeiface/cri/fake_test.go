package cri_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// server is a CRI runtime in memory behind a real socket.
type server struct {
	api.UnimplementedRuntimeServiceServer
	api.UnimplementedImageServiceServer

	socket string
	grpc   *grpc.Server

	mu         sync.Mutex
	sandboxes  map[string]*api.PodSandboxStatus
	containers map[string]*api.ContainerStatus
	inside     map[string]string // container to sandbox
	seq        int
	calls      map[string]int
	last       map[string]any
	before     func(method string) error // called without the lock
	after      func(method string) error
	events     chan *api.ContainerEventResponse // nil: none offered; closed: the stream ends
	padding    string
	streams    string // address of the streaming server
	refuse     string // name of a container that cannot be created
	name       string // of the runtime
	able       bool   // has every feature
}

func newServer() *server {
	dir, err := os.MkdirTemp("", "cri")
	Expect(err).NotTo(HaveOccurred())
	s := &server{
		socket: filepath.Join(dir, "s"), sandboxes: map[string]*api.PodSandboxStatus{}, containers: map[string]*api.ContainerStatus{},
		inside: map[string]string{}, calls: map[string]int{}, last: map[string]any{},
	}
	s.start()
	DeferCleanup(func() { s.stop(); Expect(os.RemoveAll(dir)).To(Succeed()) })
	return s
}

func (s *server) start() {
	listener, err := net.Listen("unix", s.socket)
	Expect(err).NotTo(HaveOccurred())
	s.grpc = grpc.NewServer(grpc.MaxSendMsgSize(64<<20), grpc.MaxRecvMsgSize(64<<20), grpc.UnaryInterceptor(s.intercept))
	api.RegisterRuntimeServiceServer(s.grpc, s)
	api.RegisterImageServiceServer(s.grpc, s)
	served := s.grpc
	go func() { _ = served.Serve(listener) }()
}

func (s *server) stop() { s.grpc.Stop() }

func (s *server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	s.mu.Lock()
	s.calls[method]++
	s.last[method] = request
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(method); err != nil {
			return nil, err
		}
	}
	response, err := handle(ctx, request)
	if after != nil && err == nil {
		err = after(method)
	}
	return response, err
}

// fail makes a method fail before it does anything, lose after it did it.
func (s *server) fail(method string, err error) {
	s.hook(&s.before, method, err)
}

func (s *server) lose(method string) {
	s.hook(&s.after, method, status.Error(codes.Unavailable, "the connection broke"))
}

func (s *server) hook(hook *func(string) error, method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*hook = func(m string) error {
		if m == method {
			return err
		}
		return nil
	}
}

func (s *server) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

func (s *server) heard(method string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[method]
}

func (s *server) dial(change ...func(*cri.Config)) *cri.Runtime {
	cfg := cri.Config{Endpoint: "unix://" + s.socket, PollPeriod: 20 * time.Millisecond}
	for _, c := range change {
		c(&cfg)
	}
	rt, err := cri.Dial(context.Background(), cfg)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(rt.Close)
	return rt
}

func (s *server) id(kind string) string {
	s.seq++
	return fmt.Sprintf("%s-%d", kind, s.seq)
}

func (s *server) Version(context.Context, *api.VersionRequest) (*api.VersionResponse, error) {
	return &api.VersionResponse{Version: "0.1.0", RuntimeName: cmp.Or(s.name, "fake"), RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

func (s *server) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	features := &api.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: s.able, UserNamespaces: s.able}
	return &api.StatusResponse{
		RuntimeHandlers: []*api.RuntimeHandler{{Name: "", Features: features}, {Name: "runc", Features: features}},
		Features:        &api.RuntimeFeatures{MountOptions: s.able},
	}, nil
}

func (s *server) RunPodSandbox(_ context.Context, r *api.RunPodSandboxRequest) (*api.RunPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, other := range s.sandboxes {
		if other.Metadata.Uid == r.Config.Metadata.Uid && other.Metadata.Attempt == r.Config.Metadata.Attempt {
			return nil, status.Errorf(codes.Unknown, "failed to reserve sandbox name: name is reserved for %q", id)
		}
	}
	state := api.PodSandboxState_SANDBOX_READY
	if r.Config.Annotations["fail"] != "" {
		state = api.PodSandboxState_SANDBOX_NOTREADY
	}
	id := s.id("sandbox")
	s.sandboxes[id] = &api.PodSandboxStatus{
		Id: id, Metadata: r.Config.Metadata, State: state, CreatedAt: time.Now().UnixNano(), Labels: r.Config.Labels,
		Annotations: r.Config.Annotations, RuntimeHandler: r.RuntimeHandler, Network: &api.PodSandboxNetworkStatus{Ip: "10.0.0.1"},
		Linux: &api.LinuxPodSandboxStatus{Namespaces: &api.Namespace{Options: r.Config.Linux.SecurityContext.NamespaceOptions}},
	}
	if state != api.PodSandboxState_SANDBOX_READY {
		return nil, status.Error(codes.Unknown, "the network is down")
	}
	return &api.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *server) ListPodSandbox(_ context.Context, r *api.ListPodSandboxRequest) (*api.ListPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &api.ListPodSandboxResponse{}
	for _, sb := range s.sandboxes {
		if !selected(r.GetFilter().GetLabelSelector(), sb.Labels) {
			continue
		}
		out.Items = append(out.Items, &api.PodSandbox{
			Id: sb.Id, Metadata: sb.Metadata, State: sb.State, CreatedAt: sb.CreatedAt, Labels: sb.Labels, Annotations: sb.Annotations,
		})
	}
	return out, nil
}

func selected(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (s *server) PodSandboxStatus(_ context.Context, r *api.PodSandboxStatusRequest) (*api.PodSandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, ok := s.sandboxes[r.PodSandboxId]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &api.PodSandboxStatusResponse{Status: sb, Info: map[string]string{"info": `{"pid": 42, "runtimeSpec": {"linux": {"cgroupsPath": "/pods/pause"}}}`}}, nil
}

func (s *server) StopPodSandbox(_ context.Context, r *api.StopPodSandboxRequest) (*api.StopPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb := s.sandboxes[r.PodSandboxId]; sb != nil {
		sb.State = api.PodSandboxState_SANDBOX_NOTREADY
	}
	return &api.StopPodSandboxResponse{}, nil
}

func (s *server) RemovePodSandbox(_ context.Context, r *api.RemovePodSandboxRequest) (*api.RemovePodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sandboxes, r.PodSandboxId)
	maps.DeleteFunc(s.containers, func(id string, _ *api.ContainerStatus) bool { return s.inside[id] == r.PodSandboxId })
	return &api.RemovePodSandboxResponse{}, nil
}

func (s *server) CreateContainer(_ context.Context, r *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Config.Metadata.Name == s.refuse {
		return nil, status.Error(codes.InvalidArgument, "not this one")
	}
	id := s.id("container")
	s.inside[id] = r.PodSandboxId
	s.containers[id] = &api.ContainerStatus{
		Id: id, Metadata: r.Config.Metadata, State: api.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: r.Config.Image, ImageRef: r.Config.Image.Image, Labels: r.Config.Labels, Annotations: r.Config.Annotations,
	}
	return &api.CreateContainerResponse{ContainerId: id}, nil
}

func (s *server) StartContainer(_ context.Context, r *api.StartContainerRequest) (*api.StartContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.ContainerId]
	switch {
	case c == nil:
		return nil, status.Error(codes.NotFound, "no such container")
	case c.State != api.ContainerState_CONTAINER_CREATED:
		return nil, status.Errorf(codes.Unknown, "container is in %s state", c.State)
	}
	c.State, c.StartedAt = api.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	return &api.StartContainerResponse{}, nil
}

func (s *server) StopContainer(_ context.Context, r *api.StopContainerRequest) (*api.StopContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[r.ContainerId]; c != nil && c.State == api.ContainerState_CONTAINER_RUNNING {
		c.State, c.FinishedAt, c.ExitCode = api.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), 137
	}
	return &api.StopContainerResponse{}, nil
}

func (s *server) RemoveContainer(_ context.Context, r *api.RemoveContainerRequest) (*api.RemoveContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, r.ContainerId)
	return &api.RemoveContainerResponse{}, nil
}

func (s *server) ContainerStatus(_ context.Context, r *api.ContainerStatusRequest) (*api.ContainerStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[r.ContainerId]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	out := &api.ContainerStatusResponse{Status: c}
	if r.Verbose {
		out.Info = map[string]string{"info": `{"pid": 7, "runtimeSpec": {"linux": {"cgroupsPath": "/pods/x"}}}`, "padding": s.padding}
	}
	return out, nil
}

func (s *server) ListContainers(_ context.Context, r *api.ListContainersRequest) (*api.ListContainersResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &api.ListContainersResponse{}
	for _, c := range s.containers {
		if f := r.GetFilter(); f.GetPodSandboxId() != "" && s.inside[c.Id] != f.GetPodSandboxId() || !selected(f.GetLabelSelector(), c.Labels) {
			continue
		}
		out.Containers = append(out.Containers, &api.Container{
			Id: c.Id, PodSandboxId: s.inside[c.Id], Metadata: c.Metadata, Image: c.Image, ImageRef: c.ImageRef, State: c.State,
			CreatedAt: c.CreatedAt, Labels: c.Labels, Annotations: c.Annotations,
		})
	}
	return out, nil
}

func (s *server) GetContainerEvents(_ *api.GetEventsRequest, stream api.RuntimeService_GetContainerEventsServer) error {
	s.mu.Lock()
	s.calls["GetContainerEvents"]++
	events := s.events
	s.mu.Unlock()
	if events == nil {
		return status.Error(codes.Unimplemented, "no events here")
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return nil
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}
