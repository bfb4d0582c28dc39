package oci

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// Internal: pure parts that the package does not show.

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001::/home/app:/bin/sh\nbad:x:minus:1::/:\nnohome:x:7:7\n"
	testGroup  = "root:x:0:\nstaff:x:50:app,other\napp:x:1001:\ndocker:x:999:app\n"
)

func TestUsersAreResolved(t *testing.T) {
	accounts, groups := parsePasswd(strings.NewReader(testPasswd)), parseGroup(strings.NewReader(testGroup))
	id := func(n int64) *int64 { return &n }
	for name, test := range map[string]struct {
		image string
		sec   runtimeiface.Security
		want  string // uid:gid:groups home
	}{
		"none is root":                {"", runtimeiface.Security{}, "0:0:[] /root"},
		"name":                        {"app", runtimeiface.Security{}, "1000:1001:[50 999] /home/app"},
		"number with a name":          {"1000", runtimeiface.Security{}, "1000:1001:[50 999] /home/app"},
		"number without a name":       {"4711", runtimeiface.Security{}, "4711:0:[] /"},
		"name and group":              {"app:staff", runtimeiface.Security{}, "1000:50:[50 999] /home/app"},
		"name and number":             {"app:77", runtimeiface.Security{}, "1000:77:[50 999] /home/app"},
		"no home":                     {"nohome", runtimeiface.Security{}, "7:7:[] /"},
		"RunAsUser wins":              {"app:staff", runtimeiface.Security{RunAsUser: id(0)}, "0:0:[] /root"},
		"RunAsGroup wins":             {"app", runtimeiface.Security{RunAsGroup: id(5)}, "1000:5:[50 999] /home/app"},
		"SupplementalGroups are more": {"app", runtimeiface.Security{SupplementalGroups: []int64{3, 50}}, "1000:1001:[3 50 999] /home/app"},
	} {
		user, home, err := pickUser(accounts, groups, test.image, test.sec)
		got := fmt.Sprintf("%d:%d:%v %s", user.UID, user.GID, user.AdditionalGids, home)
		if err != nil || got != test.want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, test.want)
		}
	}
	for _, unknown := range []string{"nobody", "app:nogroup", "bad", "-1"} {
		if _, _, err := pickUser(accounts, groups, unknown, runtimeiface.Security{}); err == nil {
			t.Errorf("user %q was found", unknown)
		}
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add(testPasswd, testGroup, "app:staff")
	f.Fuzz(func(_ *testing.T, passwd, group, user string) {
		_, _, _ = pickUser(parsePasswd(strings.NewReader(passwd)), parseGroup(strings.NewReader(group)), user, runtimeiface.Security{})
	})
}

const hybridMounts = `25 30 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
29 25 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
30 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 25 0:24 /some/pod /elsewhere rw - cgroup cgroup rw,memory
`

func TestHierarchiesAreRead(t *testing.T) {
	for text, want := range map[string]cgroups{
		hybridMounts: {
			mounts: []string{
				"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer",
				"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified",
			},
			track: "/sys/fs/cgroup/freezer", trackPrefix: "freezer:",
			used: []string{
				"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/systemd",
			},
			memory: "/sys/fs/cgroup/memory", oomFile: "memory.oom_control",
		},
		"30 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n": {
			mounts: []string{"/sys/fs/cgroup"}, track: "/sys/fs/cgroup",
			used:   []string{"/sys/fs/cgroup"},
			memory: "/sys/fs/cgroup", oomFile: "memory.events",
		},
		"garbage\n\n - \n1 2 3 - cgroup\n": {oomFile: "memory.events"},
	} {
		if got := parseCgroups([]byte(text)); !reflect.DeepEqual(*got, want) {
			t.Errorf("got %+v, want %+v", *got, want)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(hybridMounts)
	f.Fuzz(func(_ *testing.T, text string) { parseCgroups([]byte(text)) })
}

func TestCapabilitiesAreResolved(t *testing.T) {
	own := map[string]bool{}
	for _, name := range capNames {
		own[name] = name != "CAP_SYS_RESOURCE"
	}
	for name, test := range map[string]struct {
		sec   runtimeiface.Security
		count int
		has   []string
		not   []string
	}{
		"default":           {runtimeiface.Security{}, 14, []string{"CAP_KILL"}, []string{"CAP_SYS_ADMIN"}},
		"add":               {runtimeiface.Security{AddCapabilities: []string{"NET_ADMIN"}}, 15, []string{"CAP_NET_ADMIN"}, nil},
		"drop":              {runtimeiface.Security{DropCapabilities: []string{"KILL"}}, 13, nil, []string{"CAP_KILL"}},
		"drop wins":         {runtimeiface.Security{AddCapabilities: []string{"SYS_TIME"}, DropCapabilities: []string{"SYS_TIME"}}, 14, nil, []string{"CAP_SYS_TIME"}},
		"add over ALL":      {runtimeiface.Security{AddCapabilities: []string{"CHOWN"}, DropCapabilities: []string{"ALL"}}, 1, []string{"CAP_CHOWN"}, nil},
		"drop of ALL added": {runtimeiface.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"SYS_TIME"}}, 39, nil, []string{"CAP_SYS_TIME"}},
		"privileged":        {runtimeiface.Security{Privileged: true}, 40, []string{"CAP_SYS_ADMIN"}, []string{"CAP_SYS_RESOURCE"}},
	} {
		caps, err := capabilities(test.sec, own)
		if err != nil {
			t.Fatal(err)
		}
		ok := len(caps.Bounding) == test.count
		for _, c := range test.has {
			ok = ok && slices.Contains(caps.Effective, c)
		}
		for _, c := range test.not {
			ok = ok && !slices.Contains(caps.Bounding, c)
		}
		if !ok {
			t.Errorf("%s: %d: %v", name, len(caps.Bounding), caps.Bounding)
		}
	}
	if _, err := capabilities(runtimeiface.Security{AddCapabilities: []string{"FLY"}}, own); err == nil {
		t.Error("an unknown capability was taken")
	}
}

func TestSignalsHaveNames(t *testing.T) {
	for name, want := range map[string]int{
		"SIGTERM": 15, "TERM": 15, "quit": 3, "9": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63,
		"": 0, "SIGNO": 0, "0": 0, "65": 0, "SIGRTMIN+99": 0, "-1": 0,
	} {
		got, err := parseSignal(name)
		if int(got) != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", name, got, err)
		}
	}
}

func TestSysctlsOfTheNodeAreRefused(t *testing.T) {
	host := runtimeiface.NamespaceHost
	for name, test := range map[string]struct {
		spec runtimeiface.SandboxSpec
		ok   bool
	}{
		"net.ipv4.ip_unprivileged_port_start": {runtimeiface.SandboxSpec{}, true},
		"kernel.shmmax":                       {runtimeiface.SandboxSpec{Network: host}, true},
		"fs.mqueue.msg_max":                   {runtimeiface.SandboxSpec{}, true},
		"net.ipv4.tcp_syncookies":             {runtimeiface.SandboxSpec{Network: host}, false},
		"kernel.sem":                          {runtimeiface.SandboxSpec{IPC: host}, false},
		"kernel.panic":                        {runtimeiface.SandboxSpec{}, false},
		"vm.swappiness":                       {runtimeiface.SandboxSpec{}, false},
		"net.../kernel/panic":                 {runtimeiface.SandboxSpec{}, false},
		"net/../kernel/panic":                 {runtimeiface.SandboxSpec{}, false},
	} {
		test.spec.Sysctls = map[string]string{name: "1"}
		test.spec.Name, test.spec.Namespace, test.spec.UID = "web", "default", "1"
		if err := checkSandbox(test.spec, Config{RuntimeHandlers: map[string]string{"": "runc"}}); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCgroupsFitTheDriver(t *testing.T) {
	for _, test := range []struct {
		driver, parent string
		ok             bool
	}{
		{"cgroupfs", "/kubepods/pod1", true},
		{"cgroupfs", "/kubepods.slice/kubepods-pod1.slice", false},
		{"systemd", "/kubepods.slice/kubepods-pod1.slice", true},
		{"systemd", "/kubepods/pod1", false},
		{"systemd", "/kubepods-pod1.slice", false},
	} {
		cfg, err := Config{Root: "/r", CgroupDriver: test.driver, CgroupRoot: test.parent}.withDefaults()
		if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), "CgroupRoot") {
			t.Errorf("%+v as root: %v", test, err)
		}
		spec := runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: "1", CgroupParent: test.parent}
		err = checkSandbox(spec, cfg)
		if (err == nil) != test.ok || err != nil && (!errors.Is(err, runtimeiface.ErrInvalid) || !strings.Contains(err.Error(), "CgroupParent")) {
			t.Errorf("%+v as parent: %v", test, err)
		}
	}
	cfg, err := Config{Root: "/r", CgroupDriver: "systemd"}.withDefaults()
	if err != nil || cfg.CgroupRoot != "/nodekit.slice" {
		t.Errorf("root is %s: %v", cfg.CgroupRoot, err)
	}
	if _, err = (Config{Root: "/r", CgroupDriver: "upstart"}).withDefaults(); err == nil || !strings.Contains(err.Error(), "CgroupDriver") {
		t.Errorf("driver upstart: %v", err)
	}
}

func TestSlowReadersKeepTheNewestOfEachPod(t *testing.T) {
	h := newHub()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxQueue {
		h.publish(runtimeiface.Event{PodUID: fmt.Sprint(i % 3), Time: time.Unix(int64(i), 0)})
	}
	newest := map[string]int64{}
	count := 0
	for len(newest) < 3 || newest["0"]+newest["1"]+newest["2"] != 3*(3*maxQueue)-6 {
		e, ok := <-events
		if !ok {
			t.Fatalf("closed after %v", newest)
		}
		if e.Time.Unix() <= newest[e.PodUID] && newest[e.PodUID] != 0 {
			t.Fatal("out of order")
		}
		newest[e.PodUID] = e.Time.Unix()
		count++
	}
	if count >= 3*maxQueue {
		t.Errorf("nothing was dropped: %d events", count)
	}
	h.close()
	if _, ok := <-events; ok {
		t.Error("not closed with the hub")
	}
	if _, err := h.subscribe(ctx); err == nil {
		t.Error("subscribed to a closed hub")
	}
}

func TestLocksAreGivenUpWithTheContext(t *testing.T) {
	l := newLocks()
	unlock, err := l.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.lock(t.Context(), "b")
	if err != nil {
		t.Fatal("another name waits")
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.lock(ctx, "a"); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	unlock()
	if again, err := l.lock(t.Context(), "a"); err != nil {
		t.Error(err)
	} else {
		again()
	}
	if len(l.held) != 0 {
		t.Errorf("%d locks are kept", len(l.held))
	}
}

func TestCommandsFollowKubernetes(t *testing.T) {
	img := image.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}}
	list := strings.Fields
	for want, c := range map[string]runtimeiface.ContainerSpec{
		"/entry default": {},
		"/entry a b":     {Args: list("a b")},
		"/mine":          {Command: list("/mine")},
		"/mine a":        {Command: list("/mine"), Args: list("a")},
	} {
		if got := strings.Join(commandLine(img, c), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := commandLine(image.ImageConfig{}, runtimeiface.ContainerSpec{}); len(got) != 1 || got[0] != "" {
		t.Errorf("no command is %q", got)
	}
}

const propagatingMounts = `36 35 98:0 / /a\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw
37 36 98:1 / /slave rw master:3 propagate_from:2 - ext3 /dev/root rw,shared:9
38 36 98:1 / /private rw - tmpfs shared:1 rw
3 36 98:1 / /cut rw shared:7
`

func TestPropagationIsRead(t *testing.T) {
	for id, want := range map[uint64]string{
		36: `/a\040b {true true}`, 37: "/slave {false true}", 38: "/private {false false}",
	} {
		point, p, ok := findMount([]byte(propagatingMounts), id)
		if got := fmt.Sprint(point, " ", p); !ok || got != want {
			t.Errorf("mount %d: %s, %v, want %s", id, got, ok, want)
		}
	}
	for _, id := range []uint64{3, 1, 0} {
		if point, _, ok := findMount([]byte(propagatingMounts), id); ok {
			t.Errorf("mount %d is at %s", id, point)
		}
	}
}

func FuzzPropagation(f *testing.F) {
	f.Add([]byte(propagatingMounts), uint64(36))
	f.Fuzz(func(_ *testing.T, mountinfo []byte, id uint64) { _, _, _ = findMount(mountinfo, id) })
}

func TestLateMountOptionsAreAskedFor(t *testing.T) {
	mounts := []specs.Mount{{Options: []string{"rbind", "ro"}}, {Options: []string{"rro"}}}
	if err := (handler{mountOptions: []string{"rro"}}).checkMounts(mounts); err != nil {
		t.Error(err)
	}
	err := handler{}.checkMounts(mounts)
	if !errors.Is(err, runtimeiface.ErrNotSupported) || !strings.Contains(err.Error(), "Mounts[1].Options") {
		t.Error(err)
	}
}
