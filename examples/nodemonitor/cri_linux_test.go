package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/nodekit/nodekit/internal/containerdtest"
	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// TestMain runs all in namespaces of its own, for containerd, which end with it.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("NODEKIT_NEEDS") == "none" {
		os.Exit(m.Run())
	}
	os.Exit(containerdtest.Unshare(m.Run))
}

// containerd runs one of its own until the test ends.
func containerd(t *testing.T) (endpoint string, runtime *cri.Runtime, image string) {
	t.Helper()
	kerneltest.Require(t, kerneltest.Root, kerneltest.Overlay, kerneltest.Runc, kerneltest.Cgroup, kerneltest.Containerd, kerneltest.CNI)
	dir, err := os.MkdirTemp("", "mon") // short: a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	images := testimage.Serve(t)
	pause, err := containerdtest.PushPause(images.Prog)
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := containerdtest.New(containerdtest.Config{Dir: dir, Pause: pause})
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Close(); err != nil {
			t.Error(err)
		}
	})
	endpoint = "unix://" + daemon.Socket
	eventually(t, "containerd answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		runtime, err = cri.Dial(ctx, cri.Config{Endpoint: endpoint})
		return err == nil
	})
	pulled, err := runtime.PullImage(t.Context(), runtimeiface.ImageSpec{Ref: images.Prog}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return endpoint, runtime, pulled.ID
}

func TestContainersOfARuntime(t *testing.T) {
	endpoint, runtime, image := containerd(t)
	ctx := context.Background() // also for what happens at the end
	above := fmt.Sprintf("/nodekit-monitor-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	begin := func(pod string) (sandbox string) {
		sandbox, err := runtime.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: pod, Namespace: "default", UID: "uid-" + pod,
			LogDirectory: filepath.Join(t.TempDir(), pod), CgroupParent: above + "/pod" + pod})
		if err != nil {
			t.Fatal(err)
		}
		container, err := runtime.CreateContainer(ctx, sandbox, runtimeiface.ContainerSpec{Name: "app", Image: image, LogPath: "app.log"})
		if err == nil {
			err = runtime.StartContainer(ctx, container)
		}
		if err != nil {
			t.Fatal(err)
		}
		return sandbox
	}
	end := func(sandbox string) {
		for _, step := range []func(context.Context, string) error{runtime.StopSandbox, runtime.RemoveSandbox} {
			if err := step(ctx, sandbox); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		if err := runtime.Close(); err != nil {
			t.Error(err)
		}
		if err := cgroup.New().Remove(ctx, above); err != nil {
			t.Error(err)
		}
	})
	first := begin("one")
	defer end(first)

	// No round but the first is due: what comes later comes by an event.
	url := monitor(t, options{listen: "127.0.0.1:0", below: "/", cri: endpoint, labels: "lean", name: "node-a", interval: time.Hour, cold: time.Hour})
	has := func(series string) func() bool {
		return func() bool { return strings.Contains(get(t, url+"/metrics", ""), "\n"+series) }
	}
	app := `container_memory_rss{container="app",namespace="default",pod=%q} `
	network := `container_network_receive_packets_total{container="",namespace="default",pod=%q,interface="eth0"} `
	eventually(t, "the container that was there", has(fmt.Sprintf(app, "one")))
	eventually(t, "its pod's network", has(fmt.Sprintf(network, "one")))
	second := begin("two")
	eventually(t, "a new container", has(fmt.Sprintf(app, "two")))
	eventually(t, "its pod's network", has(fmt.Sprintf(network, "two")))
	for path, want := range map[string]string{
		"/pods":               `"name":"two"`,
		"/stats/summary":      `"podRef":{"name":"two","namespace":"default","uid":"uid-two"}`,
		"/burden?format=text": "default/two",
	} {
		if got := get(t, url+path, ""); !strings.Contains(got, want) {
			t.Errorf("%s has no %s:\n%.500s", path, want, got)
		}
	}
	if text := get(t, url+"/metrics", ""); strings.Contains(text, `container="/`) {
		t.Error("a cgroup that is no container's is metered")
	}
	// In compat mode a sandbox is there too, under the name that its runtime gave it.
	compat := monitor(t, options{listen: "127.0.0.1:0", below: "/", cri: endpoint, labels: "compat", name: "node-a", interval: time.Hour, cold: time.Hour})
	pause := regexp.MustCompile(`\ncontainer_memory_rss{container="",id="[^"]+",image="",name="` + regexp.QuoteMeta(first) + `",namespace="default",pod="one"} `)
	eventually(t, "the sandbox", func() bool { return pause.MatchString(get(t, compat+"/metrics", "")) })
	weighs(t, endpoint)
	end(second)
	eventually(t, "the end of a container", func() bool { return !has(fmt.Sprintf(app, "two"))() && has(fmt.Sprintf(app, "one"))() })
}

// weighs asks the runtime, as --disk-interval does, until it has counted.
func weighs(t *testing.T, endpoint string) {
	t.Helper()
	pods, err := dial(t.Context(), endpoint, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Close()
	if err := pods.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what containers have written", func() bool {
		pods.weighOnce(t.Context())
		known := 0
		for _, one := range pods.byCgroup {
			if layer, logs := pods.onDisk(one); one.Container == "app" && layer.Inodes > 0 && !logs.At.IsZero() && logs.Inodes == 1 {
				known++
			}
		}
		return known == 2
	})
}
