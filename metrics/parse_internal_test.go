package metrics

// In the package itself: the parsers are its inside, and the outside shows
// their refusals only as gaps.

import (
	"math"
	"reflect"
	"testing"
)

func TestParseSingle(t *testing.T) {
	for text, want := range map[string]uint64{
		"0\n": 0, "123\n": 123, "max\n": Unlimited, "-1\n": Unlimited,
		"18446744073709551615\n": math.MaxUint64,
	} {
		if got, err := parseSingle([]byte(text)); err != nil || got != want {
			t.Errorf("parseSingle(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "\n", "123", "12\n34\n", "12 \n", " 12\n", "-2\n", "1e3\n", "0x1\n", "+1\n", "12\x00\n",
		"18446744073709551616\n", "99999999999999999999\n", "100000000000000000000000\n",
	} {
		if got, err := parseSingle([]byte(text)); err != ErrGarbled {
			t.Errorf("parseSingle(%q) = %d, %v; want ErrGarbled", text, got, err)
		}
	}
}

func TestParseMax(t *testing.T) {
	for text, want := range map[string][2]uint64{
		"max 100000\n": {Unlimited, 100000}, "50000 100000\n": {50000, 100000},
	} {
		quota, period, err := parseMax([]byte(text))
		if err != nil || quota != want[0] || period != want[1] {
			t.Errorf("parseMax(%q) = %d, %d, %v", text, quota, period, err)
		}
	}
	for _, text := range []string{"", "max\n", "50000\n", "max 100000", "50000 1 2\n", "x 100000\n", "5 y\n"} {
		if _, _, err := parseMax([]byte(text)); err != ErrGarbled {
			t.Errorf("parseMax(%q): %v; want ErrGarbled", text, err)
		}
	}
}

func TestKeyedLearnsAndChecksAgain(t *testing.T) {
	k := newKeyed(key{"a", CPUUsage, 10, true}, key{"b", CPUUser, 1, false})
	for _, step := range []struct {
		text         string
		usage, user  uint64
		hasUser, bad bool
	}{
		{text: "x 1\na 2\nb 3\n", usage: 20, user: 3, hasUser: true},
		{text: "x 1\na 4\nb 5\n", usage: 40, user: 5, hasUser: true},
		{text: "a 6\nx 1\nb 7\n", usage: 60, user: 7, hasUser: true}, // other order
		{text: "a 8\n", usage: 80},
		{text: "b 9\n", bad: true},                   // a required key is missing
		{text: "a 1\na 2\n", bad: true},              // twice
		{text: "a 1\nb 2", bad: true},                // cut
		{text: "a\n", bad: true},                     // no number
		{text: "a 1 GB\n", bad: true},                // an odd unit
		{text: "a 1844674407370955162\n", bad: true}, // times 10 does not fit
		{text: "", bad: true},
	} {
		var f figures
		err := k.parse([]byte(step.text), &f)
		if (err != nil) != step.bad {
			t.Errorf("parse(%q): %v", step.text, err)
		}
		usage, ok := f.Get(CPUUsage)
		user, hasUser := f.Get(CPUUser)
		if ok == step.bad || usage != step.usage || user != step.user || hasUser != step.hasUser {
			t.Errorf("parse(%q) gave %d %v, %d %v", step.text, usage, ok, user, hasUser)
		}
	}
}

// TestKeyedReadsLearntLinesAlike has each line read by who knows it and by who
// does not.
func TestKeyedReadsLearntLinesAlike(t *testing.T) {
	for _, text := range []string{
		"a 0\n", "a 18446744073709551615\n", "a 9999999999999999999\n", "a 10000000000000000000\n", "a 00000000000000000001\n",
		"a 18446744073709551616\n", "a 99999999999999999999\n", "a 000000000000000000001\n", "a  5\n", "a 5 kB\n", "a 5 MB\n", "a 5 \n", "a -1\n",
		"a \n", "a\n", "a 1", "a 1x\n", "a 1\n\n", "a 1\na 1\n", "ab 1\n", "a\x00 1\n", "", "\n", "x y\na 1\n", "x 1\na 2\nx 3\n",
	} {
		fresh, learnt := newKeyed(key{"a", CPUUsage, 1, true}), newKeyed(key{"a", CPUUsage, 1, true})
		for _, before := range []string{"a 1\n", "x 1\na 2\n"} {
			var f figures
			if err := learnt.parse([]byte(before), &f); err != nil {
				t.Fatal(err)
			}
			var got, want figures
			gotErr, wantErr := learnt.parse([]byte(text), &got), fresh.parse([]byte(text), &want)
			if gotErr != wantErr || got != want {
				t.Errorf("parse(%q) after %q: %d, %v; want %d, %v", text, before, got.value[CPUUsage], gotErr, want.value[CPUUsage], wantErr)
			}
			fresh = newKeyed(key{"a", CPUUsage, 1, true})
		}
	}
}

func TestParsePressure(t *testing.T) {
	var f figures
	text := "some avg10=0.68 avg60=10.56 avg300=100.00 total=11367146\nfull avg10=0.01 avg60=0.02 avg300=0.03 total=4\n"
	if err := parsePressure([]byte(text), MemorySomeTotal, &f); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[Field]uint64{
		MemorySomeTotal: 11367146, MemorySomeAvg10: 68, MemorySomeAvg60: 1056, MemorySomeAvg300: 10000,
		MemoryFullTotal: 4, MemoryFullAvg10: 1, MemoryFullAvg60: 2, MemoryFullAvg300: 3,
	} {
		if got, ok := f.Get(field); !ok || got != want {
			t.Errorf("field %d is %d, %v; want %d", field, got, ok, want)
		}
	}
	f = figures{}
	if err := parsePressure([]byte(text[:len("some avg10=0.68 avg60=10.56 avg300=100.00 total=11367146\n")]), CPUSomeTotal, &f); err != nil {
		t.Errorf("without a full line: %v", err)
	}
	if _, ok := f.Get(CPUFullTotal); ok {
		t.Error("full is known without its line")
	}
	for _, bad := range []string{
		"", "\n", text[:20], text[:len(text)-1], text + "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"full avg10=0.01 avg60=0.02 avg300=0.03 total=4\n", "some avg10=x avg60=0.02 avg300=0.03 total=4\n",
		"some avg60=0.01 avg10=0.02 avg300=0.03 total=4\n", "some avg10=0.01 avg60=0.02 avg300=0.03 total=4 x\n",
		"some avg10=0.1 avg60=0.02 avg300=0.03 total=4\n",
	} {
		f = figures{}
		if err := parsePressure([]byte(bad), CPUSomeTotal, &f); err != ErrGarbled || f.known != (fieldSet{}) {
			t.Errorf("parsePressure(%q): %v, known %v", bad, err, f.known)
		}
	}
}

func TestParseBlkio(t *testing.T) {
	text := "253:0 Read 4096\n253:0 Write 8192\n253:0 Sync 1\n253:0 Async 2\n253:0 Discard 3\n253:0 Total 12288\n8:0 Read 5\n8:0 Write 6\nTotal 99\n"
	d, err := parseBlkio([]byte(text), nil, false)
	if err != nil || len(d) != 2 {
		t.Fatalf("%v, %v", d, err)
	}
	for op, want := range []uint64{4096, 8192, 3, 1, 2, 12288} {
		if n, ok := d[0].Bytes(Op(op)); !ok || n != want {
			t.Errorf("%s is %d, %v; want %d", Op(op), n, ok, want)
		}
	}
	if _, ok := d[1].Bytes(OpDiscard); ok {
		t.Error("8:0 discards are known")
	}
	if _, ok := d[0].Count(OpRead); ok {
		t.Error("counts are known from bytes")
	}
	if d, err := parseBlkio([]byte("Total 0\n"), nil, true); err != nil || len(d) != 0 {
		t.Errorf("an idle cgroup: %v, %v", d, err)
	}
	for _, bad := range []string{"", "253:0 Read 1\n", "253:0 Read\nTotal 0\n", "x Read 1\nTotal 1\n", "Total 0\n253:0 Read 1\n", "Total x\n", "1:99999999999 Read 1\nTotal 1\n"} {
		if _, err := parseBlkio([]byte(bad), nil, false); err != ErrGarbled {
			t.Errorf("parseBlkio(%q): %v", bad, err)
		}
	}
}

func TestParseIOStat(t *testing.T) {
	text := "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 8:16 rbytes=7 wbytes=0 rios=8 wios=0 dbytes=0 dios=0 cost.vrate=100.00 use_delay=0\n7:1\n"
	d, err := parseIOStat([]byte(text), nil)
	if err != nil || len(d) != 4 {
		t.Fatalf("%v, %v", d, err)
	}
	want := Device{Major: 8, Minor: 0, bytes: [numOps]uint64{1, 2, 5}, count: [numOps]uint64{3, 4, 6}, hasBytes: 7, hasCount: 7}
	if d[0] != want {
		t.Errorf("got %+v", d[0])
	}
	if n, _ := d[2].Count(OpRead); d[2].Minor != 16 || n != 8 {
		t.Errorf("the second on a line: %+v", d[2])
	}
	for _, bad := range []string{"8:0 rbytes=1", "rbytes=1\n", "8:0 rbytes=x\n", "8:0 rbytes\n", "8 rbytes=1\n"} {
		if _, err := parseIOStat([]byte(bad), nil); err != ErrGarbled {
			t.Errorf("parseIOStat(%q): %v", bad, err)
		}
	}
}

func TestParseNetDev(t *testing.T) {
	const head = "Inter-|   Receive  |  Transmit\n face |bytes    packets |bytes\n"
	got, err := parseNetDev([]byte(head+"    lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nwl:an0:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"), nil, names{})
	want := []Interface{
		{"eth0", 1, 2, 3, 4, 9, 10, 11, 12},
		{"wl:an0", math.MaxUint64, 2, 3, 4, 9, 10, 11, 12},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "x\n", head[:10], head + "eth0: 1 2\n", head + "eth0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", head + ": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", head + "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"} {
		if _, err := parseNetDev([]byte(bad), nil, names{}); err != ErrGarbled {
			t.Errorf("parseNetDev(%q): %v", bad, err)
		}
	}
}

func TestParseRest(t *testing.T) {
	if n, first, err := countLines([]byte("1\n22\n333\n")); n != 3 || first != 1 || err != nil {
		t.Error(n, first, err)
	}
	for _, bad := range []string{"1\n2", "x\n", "\n"} {
		if _, _, err := countLines([]byte(bad)); err != ErrGarbled {
			t.Errorf("countLines(%q): %v", bad, err)
		}
	}
	limits := "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n"
	if n, err := parseOpenFiles([]byte(limits)); n != 1024 || err != nil {
		t.Error(n, err)
	}
	if n, err := parseOpenFiles([]byte("Max open files            unlimited            unlimited            files\n")); n != Unlimited || err != nil {
		t.Error(n, err)
	}
	for _, bad := range []string{"", limits[:len(limits)-1], "Max open files            x\n", "Max file size             unlimited\n"} {
		if _, err := parseOpenFiles([]byte(bad)); err != ErrGarbled {
			t.Errorf("parseOpenFiles(%q): %v", bad, err)
		}
	}
	var mounts []string
	if err := eachBlockMount([]byte("22 1 0:21 / /proc rw shared:2 - proc proc rw\n23 1 254:0 / /a\\040b rw - ext4 /dev/vda rw\n24 1 7:0 / /snap rw - squashfs /dev/loop0 ro\n"),
		func(device, path string) { mounts = append(mounts, device+" "+path) }); err != nil || len(mounts) != 1 || mounts[0] != "/dev/vda /a b" {
		t.Error(mounts, err)
	}
	for _, bad := range []string{"23 1 254:0 / / rw - ext4 /dev/vda rw", "x\n", "23 - ext4 /dev/vda rw\n"} {
		if err := eachBlockMount([]byte(bad), func(string, string) { t.Errorf("took %q", bad) }); err != ErrGarbled {
			t.Errorf("eachBlockMount(%q): %v", bad, err)
		}
	}
	if n, err := parseLoadavg([]byte("0.00 0.01 0.05 1/123 4567\n")); n != 123 || err != nil {
		t.Error(n, err)
	}
	for _, bad := range []string{"", "0.00\n", "0.00 0.01 0.05 123 4567\n", "0.00 0.01 0.05 1/x 4567\n", "0.00 0.01 0.05 1/123 4567"} {
		if _, err := parseLoadavg([]byte(bad)); err != ErrGarbled {
			t.Errorf("parseLoadavg(%q): %v", bad, err)
		}
	}
	for _, bad := range []string{"", "8 0 sda 1 2 3\n", "8 0 sda 1 2 3 4 5 6 7 8 9 10 x\n", "x 0 sda 1 2 3 4 5 6 7 8 9 10 11\n", "8 0 sda 1 2 3 4 5 6 7 8 9 10 11"} {
		if _, _, err := cutDisk([]byte(bad)); err != ErrGarbled {
			t.Errorf("cutDisk(%q): %v", bad, err)
		}
	}
	if !inCgroup([]byte("4:memory:/kubepods/pod1/c1\n0::/\n"), "/kubepods/pod1") ||
		inCgroup([]byte("4:memory:/kubepods/pod10/c1\n"), "/kubepods/pod1") || inCgroup(nil, "/a") {
		t.Error("inCgroup")
	}
}

func TestDecidePerController(t *testing.T) {
	// This project's kind of machine: cpu and cpuacct apart, v2 without controllers.
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\040ory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	mounts, err := parseMountinfo([]byte(hybrid))
	if err != nil {
		t.Fatal(err)
	}
	u := place{2, "/sys/fs/cgroup/unified"}
	want := layout{
		controllerCPU: {1, "/sys/fs/cgroup/cpu"}, controllerCPUAcct: {1, "/sys/fs/cgroup/cpuacct"},
		controllerMemory: {1, "/sys/fs/cgroup/mem ory"}, controllerPids: u, controllerIO: {}, controllerPressure: u, controllerHugetlb: u,
	}
	if got := decide(mounts, []string{"pids", "hugetlb"}); got != want {
		t.Errorf("hybrid: got %+v", got)
	}
	mounts, _ = parseMountinfo([]byte("29 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"))
	u.root = "/sys/fs/cgroup"
	want = layout{u, u, u, u, u, u, {}}
	if got := decide(mounts, []string{"cpu", "io", "memory", "pids"}); got != want {
		t.Errorf("v2: got %+v", got)
	}
	// A mount of a part of the hierarchy gives way to one of the whole.
	mounts, _ = parseMountinfo([]byte("1 0 0:1 /docker/x /part rw - cgroup cgroup rw,memory\n2 0 0:1 / /whole rw - cgroup cgroup rw,memory\n"))
	if got := decide(mounts, nil); got[controllerMemory].root != "/whole" || got[controllerCPU].version != 0 {
		t.Errorf("part: got %+v", got)
	}
	for _, bad := range []string{"x\n", "1 2 3 4 5 6 cgroup\n", hybrid[:40]} {
		if _, err := parseMountinfo([]byte(bad)); err != ErrGarbled {
			t.Errorf("parseMountinfo(%q): %v", bad, err)
		}
	}
}
