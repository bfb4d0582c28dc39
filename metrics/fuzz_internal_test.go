package metrics

// In the package itself, for it feeds the parsers, which are its inside. What
// is checked: no panic, a refused text sets nothing, an accepted one ends in a
// newline, and a text cut short is never taken for the whole.

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzSources feeds every source of v1 and v2.
func FuzzSources(f *testing.F) {
	files, err := filepath.Glob("testdata/v2/cgroup/kubepods/pod1/c1/*")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("user 3317\nsystem 1999\n"))
	f.Add([]byte("253:0 Read 4096\nTotal 4096\n"))
	f.Add([]byte("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"))
	root := func(version int) (l layout) {
		for i := range l {
			l[i] = place{version, "/"}
		}
		return l
	}
	// cgroup.procs of a cgroup without processes is empty; so is io.stat.
	empty := map[string]bool{"cgroup.procs": true, "io.stat": true}
	f.Fuzz(func(t *testing.T, text []byte) {
		for version := 1; version <= 2; version++ {
			plan := makePlan(root(version), []uint64{2 << 20})
			for i := range plan.sources {
				src := &plan.sources[i]
				var s Sample
				err := src.parse(text, &s)
				if err != nil && s.known != (fieldSet{}) {
					t.Errorf("%s: refused %q but set %v", src.name, text, s.known)
				}
				if err == nil && len(text) == 0 && !empty[src.name] {
					t.Errorf("%s: took an empty file", src.name)
				}
				if err == nil && len(text) > 0 && text[len(text)-1] != '\n' {
					t.Errorf("%s: took a file that is cut: %q", src.name, text)
				}
			}
		}
	})
}

// FuzzProc feeds the parsers of /proc.
func FuzzProc(f *testing.F) {
	for _, file := range []string{"meminfo", "loadavg", "diskstats", "thread-self/net/dev", "thread-self/net/route", "101/cgroup", "101/limits", "self/mountinfo", "stat"} {
		text, err := os.ReadFile(filepath.Join("testdata/v2/proc", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newReader("/nowhere", "/nowhere", layout{}, 0, nil)
		r.disks["sda"] = true
		for i := range r.node.sources {
			src := &r.node.sources[i]
			var s Sample
			err := src.parse(r, text, &s)
			if err != nil && (s.known != (fieldSet{}) || len(s.Devices)+len(s.Interfaces) > 0) {
				t.Errorf("%s: refused %q but set %v", src.name, text, s.known)
			}
			if err == nil && len(text) > 0 && text[len(text)-1] != '\n' {
				t.Errorf("%s: took a file that is cut: %q", src.name, text)
			}
		}
		if mounts, err := parseMountinfo(text); err == nil {
			decide(mounts, nil)
		}
		if _, err := parseOpenFiles(text); err == nil && !bytes.Contains(text, []byte("\n")) {
			t.Errorf("took limits that are cut: %q", text)
		}
		_ = eachBlockMount(text, func(device, path string) {
			if !strings.HasPrefix(device, "/dev/") || path == "" {
				t.Errorf("took the mount of %q at %q", device, path)
			}
		})
		parseRoute(text, names{})
		bootTime(text)
		inCgroup(text, "/kubepods/pod1")
	})
}

// FuzzNetlink feeds the parsers of netlink messages: no panic, and nothing taken
// of a message that is cut.
func FuzzNetlink(f *testing.F) {
	body := append(order.AppendUint32(order.AppendUint32(nil, 0), 7), 1, 0, 0, 0)
	body = order.AppendUint16(order.AppendUint16(body, 4+32), statsLink64)
	body = append(body, make([]byte, 32)...)
	message := order.AppendUint32(nil, uint32(16+len(body)))
	message = order.AppendUint16(order.AppendUint16(message, 92), 0)
	message = order.AppendUint32(order.AppendUint32(message, 1), 0)
	message = append(message, body...)
	f.Add(message)
	f.Add(append([]byte(nil), message[:40]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = eachMessage(b, 1, func(body []byte) error {
			if one, ok, err := parseLinkStats(body); ok && err == nil && len(body) < 12+4+32 {
				t.Errorf("took %+v of %d bytes", one, len(body))
			}
			if _, ok, err := parseVeth(body); ok && err == nil && len(body) < 16+8 {
				t.Errorf("took a veth of %d bytes", len(body))
			}
			return nil
		})
	})
}
