// Package cri, not cri_test: parsers of a runtime's text are not exported.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

func TestEndpoints(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///run/c.sock": "unix /run/c.sock", "unix:/run/c.sock": "unix /run/c.sock", "npipe:////./pipe/c": "npipe //./pipe/c",
		"": "", "/run/c.sock": "", "tcp://1.2.3.4:5": "", "unix://": "", "unix://run/c.sock": "", "unix:///": "",
	} {
		network, address, err := splitEndpoint(endpoint)
		if got := strings.TrimSpace(network + " " + address); got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v; want %q", endpoint, got, err, want)
		}
	}
}

func TestCgroupPaths(t *testing.T) {
	for text, want := range map[string]string{
		"/kubepods/x/y": "/kubepods/x/y", "/a/../b": "/b", "": "", "relative": "",
		"kubepods-burstable-pod1.slice:cri-containerd:4f2": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-4f2.scope",
		"system.slice:crio:1":                              "/system.slice/crio-1.scope", "a/b.slice:c:d": "", "x:y:z": "",
	} {
		if got := cgroupPath(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestExitReasons(t *testing.T) {
	for _, c := range []struct {
		code       int32
		reason     string
		want       int32
		wantReason string
	}{
		{0, "Completed", 0, runtimeiface.ReasonCompleted}, {3, "Error", 3, runtimeiface.ReasonError}, {0, "", 0, runtimeiface.ReasonCompleted},
		{137, "OOMKilled", 137, runtimeiface.ReasonOOMKilled}, {128, "StartError", 128, runtimeiface.ReasonStartError},
		{128, "ContainerCannotRun", 128, runtimeiface.ReasonStartError}, {255, "Unknown", 137, runtimeiface.ReasonUnknown},
		{139, "seccomp killed", 139, runtimeiface.ReasonError}, {-1, "Error", 137, runtimeiface.ReasonUnknown},
	} {
		if code, reason := exit(c.code, c.reason); code != c.want || reason != c.wantReason {
			t.Errorf("%d %q is %d %q, want %d %q", c.code, c.reason, code, reason, c.want, c.wantReason)
		}
	}
}

// The texts are those of containerd v2.4.2 but for the last ones of CRI-O.
func TestPullErrors(t *testing.T) {
	for text, want := range map[string]error{
		`failed to pull and unpack image "x": failed to resolve image: x: not found`:                                      runtimeiface.ErrNotFound,
		`failed to do request: Head "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused`:          runtimeiface.ErrUnavailable,
		`pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth`: runtimeiface.ErrUnauthorized,
		`unexpected status from GET request to http://x: 401 Unauthorized`:                                                runtimeiface.ErrUnauthorized,
		`failed to parse image reference "X": invalid reference format`:                                                   runtimeiface.ErrInvalidImageName,
		`reading manifest 1 in docker.io/a/b: manifest unknown`:                                                           runtimeiface.ErrNotFound,
		`RegistryUnavailable: pinging container registry x: received unexpected HTTP status: 503 Service Unavailable`:     runtimeiface.ErrUnavailable,
	} {
		err := pullError(context.Background(), status.Error(codes.Unknown, text), "x")
		if !errors.Is(err, want) {
			t.Errorf("%s\nis %v, want %v", text, err, want)
		}
	}
	digest := status.Error(codes.FailedPrecondition, "unexpected commit digest sha256:2b1401946a8f, expected sha256:afe0a633440f")
	if err := pullError(context.Background(), digest, "x"); errors.Is(err, runtimeiface.ErrUnauthorized) {
		t.Errorf("the digits of a digest are no status: %v", err)
	}
}

func TestCommandsThatCannotRun(t *testing.T) {
	for text, want := range map[string]int{
		`OCI runtime exec failed: exec failed: unable to start container process: exec: "/x": stat /x: no such file or directory`: 127,
		`OCI runtime exec failed: exec failed: unable to start container process: exec: "x": executable file not found in $PATH`:  127,
		`OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc": permission denied`:                126,
		`container is in CONTAINER_EXITED state`: 0,
	} {
		var failed *errCommand
		if got := errors.As(commandError(errors.New(text)), &failed); got != (want != 0) || got && failed.code != want {
			t.Errorf("%s: %v, want %d", text, failed, want)
		}
	}
}

func TestResourcesWithoutAWord(t *testing.T) {
	n, u := int64(1), uint64(1)
	for field, r := range map[string]*specs.LinuxResources{
		"Resources.Pids":               {Pids: &specs.LinuxPids{Limit: &n}},
		"Resources.Memory.Reservation": {Memory: &specs.LinuxMemory{Reservation: &n}},
		"Resources.Memory.Swappiness":  {Memory: &specs.LinuxMemory{Swappiness: &u}},
		"Resources.CPU.Burst":          {CPU: &specs.LinuxCPU{Burst: &u}},
		"Resources.BlockIO":            {BlockIO: &specs.LinuxBlockIO{}},
		"Resources.Devices":            {Devices: []specs.LinuxDeviceCgroup{{Allow: true}}},
	} {
		if _, err := resources(r); !errors.Is(err, runtimeiface.ErrNotSupported) || !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	quota, limit := int64(50000), int64(1<<20)
	got, err := resources(&specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &quota, Shares: &u, Cpus: "0-1"},
		Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}, Unified: map[string]string{"memory.high": "1"},
	})
	if err != nil || got.CpuQuota != quota || got.CpuShares != 1 || got.CpusetCpus != "0-1" || got.MemoryLimitInBytes != limit ||
		got.MemorySwapLimitInBytes != limit || got.Unified["memory.high"] != "1" {
		t.Errorf("limits are %v, %v", got, err)
	}
}

func TestContainerConfigNamesTheField(t *testing.T) {
	dir := t.TempDir()
	minus := int64(-1)
	for field, c := range map[string]struct {
		spoil func(*runtimeiface.ContainerSpec)
		want  error
	}{
		"Env[0]":             {func(s *runtimeiface.ContainerSpec) { s.Env = []string{"novalue"} }, runtimeiface.ErrInvalid},
		"WorkingDir":         {func(s *runtimeiface.ContainerSpec) { s.WorkingDir = "x" }, runtimeiface.ErrInvalid},
		"PID":                {func(s *runtimeiface.ContainerSpec) { s.PID = "moon" }, runtimeiface.ErrInvalid},
		"OOMScoreAdj":        {func(s *runtimeiface.ContainerSpec) { s.OOMScoreAdj = 1001 }, runtimeiface.ErrInvalid},
		"Security.RunAsUser": {func(s *runtimeiface.ContainerSpec) { s.Security.RunAsUser = &minus }, runtimeiface.ErrInvalid},
		"Security.Seccomp":   {func(s *runtimeiface.ContainerSpec) { s.Security.Seccomp = "x" }, runtimeiface.ErrInvalid},
		"Security.AppArmor":  {func(s *runtimeiface.ContainerSpec) { s.Security.AppArmor = "x" }, runtimeiface.ErrInvalid},
		"Security.AppArmorProfile": {func(s *runtimeiface.ContainerSpec) {
			s.Security.AppArmor = runtimeiface.AppArmorLocalhost
		}, runtimeiface.ErrInvalid},
		"Security.AddCapabilities": {func(s *runtimeiface.ContainerSpec) {
			s.Security.AddCapabilities = []string{"CAP_CHOWN"}
		}, runtimeiface.ErrInvalid},
		"Mounts[0].Type": {func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/x"}}
		}, runtimeiface.ErrNotSupported},
		"Mounts[0].Options": {func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "bind", Source: dir, Destination: "/x", Options: []string{"sync"}}}
		}, runtimeiface.ErrNotSupported},
	} {
		spec := runtimeiface.ContainerSpec{Name: "a", Image: "b"}
		c.spoil(&spec)
		if _, err := containerConfig(spec); !errors.Is(err, c.want) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestProfilesAndLabels(t *testing.T) {
	if got := securityContext(runtimeiface.Security{}); got.Apparmor != nil || got.SelinuxOptions != nil {
		t.Errorf("nothing is asked for: %v", got)
	}
	got := securityContext(runtimeiface.Security{AppArmor: runtimeiface.AppArmorLocalhost, AppArmorProfile: "strict",
		SELinux: &runtimeiface.SELinux{User: "u", Role: "r", Type: "t", Level: "s0"}})
	if got.Apparmor.ProfileType != api.SecurityProfile_Localhost || got.Apparmor.LocalhostRef != "strict" {
		t.Errorf("profile is %v", got.Apparmor)
	}
	if l := got.SelinuxOptions; l.User != "u" || l.Role != "r" || l.Type != "t" || l.Level != "s0" {
		t.Errorf("label is %v", l)
	}
	for kind, want := range map[runtimeiface.AppArmorType]api.SecurityProfile_ProfileType{
		runtimeiface.AppArmorUnconfined: api.SecurityProfile_Unconfined, runtimeiface.AppArmorRuntimeDefault: api.SecurityProfile_RuntimeDefault} {
		if got := securityContext(runtimeiface.Security{AppArmor: kind}).Apparmor; got.ProfileType != want {
			t.Errorf("%s is %v", kind, got)
		}
	}
}

func TestMountOptions(t *testing.T) {
	dir := t.TempDir()
	got, err := mounts([]specs.Mount{
		{Type: "bind", Source: dir, Destination: "/a", Options: []string{"rbind", "ro", "rslave"}},
		{Type: "bind", Source: dir, Destination: "/b", Options: []string{"rbind", "rro"}},
		{Type: "bind", Source: dir, Destination: "/c", Options: []string{"rshared"}},
	})
	if err != nil || !got[0].Readonly || got[0].Propagation != api.MountPropagation_PROPAGATION_HOST_TO_CONTAINER ||
		!got[1].RecursiveReadOnly || got[2].Propagation != api.MountPropagation_PROPAGATION_BIDIRECTIONAL || got[2].Readonly {
		t.Errorf("mounts are %v, %v", got, err)
	}
}

func TestStopSignals(t *testing.T) {
	for name, want := range map[string]api.Signal{
		"": 0, "SIGTERM": api.Signal_SIGNAL_SIGTERM, "quit": api.Signal_SIGNAL_SIGQUIT, "SIGRTMIN+3": api.Signal_SIGNAL_SIGRTMINPLUS3,
	} {
		if got, err := stopSignal(name); got != want || err != nil {
			t.Errorf("%q is %v, %v", name, got, err)
		}
	}
}

func TestOtherNames(t *testing.T) {
	image := runtimeiface.Image{
		ID:   "sha256:" + strings.Repeat("1", 64),
		Tags: []string{"docker.io/library/a:1", "r.test/b:1"}, Digests: []string{"r.test/b@sha256:" + strings.Repeat("2", 64)},
	}
	for ref, want := range map[string]int{image.ID: 0, "a:1": 2, "r.test/b:1": 1} {
		if got := otherNames(image, ref); len(got) != want {
			t.Errorf("beside %s there are %q, want %d", ref, got, want)
		}
	}
	image.Tags = image.Tags[1:]
	if got := otherNames(image, "r.test/b:1"); len(got) != 0 {
		t.Errorf("beside the last tag there are %q", got)
	}
	if got := otherNames(image, image.Digests[0]); len(got) != 1 {
		t.Errorf("beside the digest there are %q", got)
	}
}

// What comes late or twice changes nothing, and nothing comes back.
func TestModelTellsEachChangeOnce(t *testing.T) {
	m := newModel(snapshot{})
	pod := &api.PodSandboxStatus{Id: "s", Metadata: &api.PodSandboxMetadata{Uid: "u"}}
	var got []runtimeiface.EventType
	tell := func(events []runtimeiface.Event) {
		for _, e := range events {
			got = append(got, e.Type)
		}
	}
	event := func(id string, kind api.ContainerEventType) {
		tell(m.event(&api.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, PodSandboxStatus: pod}))
	}
	event("s", 1)
	event("c", 0)
	stale := snapshot{} // a list begun before anything was there
	tell(m.compare(stale))
	event("c", 2)
	event("c", 1) // late
	event("c", 3)
	event("c", 0) // late
	event("s", 3)
	event("s", 1) // late
	want := []runtimeiface.EventType{
		runtimeiface.SandboxStarted, runtimeiface.ContainerMade, runtimeiface.ContainerStopped, runtimeiface.ContainerRemoved,
		runtimeiface.SandboxStopped, runtimeiface.SandboxRemoved,
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if len(m.pods)+len(m.sandboxes)+len(m.containers)+len(m.last) > 0 {
		t.Errorf("the model keeps %+v", m)
	}
}

func TestQueueKeepsTheNewestOfEachPod(t *testing.T) {
	queue := []runtimeiface.Event{{PodUID: "a", Type: "1"}, {PodUID: "b", Type: "2"}, {PodUID: "a", Type: "3"}}
	if got := newestOfEachPod(queue); len(got) != 2 || got[0].Type != "2" || got[1].Type != "3" {
		t.Errorf("kept %v", got)
	}
}

func FuzzExitStatus(f *testing.F) {
	f.Add([]byte(`{"status":"Success"}`))
	f.Add([]byte(`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`))
	f.Add([]byte(`{"status":"Failure","message":"OCI runtime exec failed: permission denied"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		code, err := parseExit(text)
		if (err != nil) != (code < 0) {
			t.Errorf("code %d, error %v", code, err)
		}
	})
}

func FuzzStreamURL(f *testing.F) {
	for _, text := range []string{
		"http://127.0.0.1:36101/exec/x", "//[::]:36101/cri/exec/x", "https://localhost:1/", "http://0.0.0.0:1/", "http://[::ffff:127.0.0.1]:1/",
		"http://192.0.2.1:80/", "http://127.0.0.1.example.com:80/", "http://u@127.0.0.1:80/", "http://[fe80::1%25lo]:80/", "http://127.1:80/",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := streamURL(text)
		if err != nil {
			return
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			t.Fatalf("%q is %q: %v", text, u, err)
		}
		ip := net.ParseIP(strings.SplitN(host, "%", 2)[0])
		if host != "localhost" && (ip == nil || !ip.IsLoopback() && !ownAddress(netip.MustParseAddr(host))) {
			t.Errorf("%q is %q, which is not this node", text, u.Host)
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add(`{"pid": 4711, "sandboxID": "s", "runtimeSpec": {"linux": {"cgroupsPath": "a-b.slice:c:d"}}}`)
	f.Add(`{"pid": -1}`)
	f.Fuzz(func(t *testing.T, text string) {
		got := parseInfo(map[string]string{"info": text})
		if got.PID < 0 {
			t.Errorf("PID %d", got.PID)
		}
		if p := cgroupPath(got.RuntimeSpec.Linux.CgroupsPath); p != "" && !strings.HasPrefix(p, "/") {
			t.Errorf("cgroup %q", p)
		}
	})
}

func FuzzAnnotation(f *testing.F) {
	f.Add(`{"labels":["io.kubernetes.pod.uid"],"sandbox":{"LogDirectory":"/x"}}`, "io.kubernetes.pod.uid")
	f.Add(`[]`, "x")
	f.Fuzz(func(t *testing.T, text, label string) {
		labels := map[string]string{label: "v", labelPodUID: "u"}
		before := maps.Clone(labels)
		got, _, _, made := unmarked(labels, map[string]string{Annotation: text})
		if !maps.Equal(labels, before) {
			t.Error("the runtime's own map was changed")
		}
		if made != (json.Unmarshal([]byte(text), &kept{}) == nil) {
			t.Errorf("made is %v", made)
		}
		if !made && len(got) != len(labels) {
			t.Errorf("labels %v", got)
		}
	})
}
