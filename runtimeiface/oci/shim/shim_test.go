package shim

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/crilog"
)

// Internal: what is tested here is the program, it has no other callers.

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	for _, m := range []Message{
		{Seq: 1, Op: OpCommit},
		{Seq: 7, Op: OpStop, Fields: []string{"abc", "-5"}},
		{Op: EventExit, Fields: []string{"", "\x00\xff", strings.Repeat("x", 70000)}},
	} {
		b, err := m.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadMessage(bytes.NewReader(b[len("before"):]))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("got %.100v, %v, want %.100v", got, err, m)
		}
	}
}

func TestPauseRequestsArriveAsTheyWereSent(t *testing.T) {
	for _, req := range []PauseRequest{
		{UIDs: []IDMapping{{0, 1, 2}}, GIDs: []IDMapping{{0, 1<<32 - 1, 1}, {5, 6, 7}}, Hostname: "h", Sysctls: []string{"a", ""}},
		{UIDs: []IDMapping{{1, 2, 3}}, GIDs: []IDMapping{{3, 2, 1}}, Sysctls: []string{}},
	} {
		got, err := parsePause(Message{Fields: req.Fields()})
		if err != nil || !reflect.DeepEqual(got, req) {
			t.Errorf("got %v, %v, want %v", got, err, req)
		}
	}
	if got, err := parsePause(Message{}); err != nil || len(got.UIDs) > 0 {
		t.Errorf("a request without fields is %v, %v", got, err)
	}
	for _, fields := range [][]string{
		{""}, {"0:1:2", "0:1:2"}, {"", "0:1:2", ""}, {"0:1", "0:1:2", ""}, {"0:1:2:3", "0:1:2", ""},
		{"0:1:4294967296", "0:1:2", ""}, {"0:1:-1", "0:1:2", ""}, {"0:1:2", "x", ""}, {"0:1:2", "0:1:2", "", "name"},
	} {
		if got, err := parsePause(Message{Fields: fields}); err == nil {
			t.Errorf("%q was read as %v", fields, got)
		}
	}
}

func FuzzPauseRequest(f *testing.F) {
	f.Add("0:1:2 3:4:5", "0:1:2", "h")
	f.Fuzz(func(t *testing.T, uids, gids, hostname string) {
		req, err := parsePause(Message{Fields: []string{uids, gids, hostname}})
		if err != nil {
			return
		}
		again, err := parsePause(Message{Fields: req.Fields()})
		if err != nil || !reflect.DeepEqual(again.UIDs, req.UIDs) || !reflect.DeepEqual(again.GIDs, req.GIDs) {
			t.Errorf("%v became %v, %v", req, again, err)
		}
	})
}

func TestMessagesHaveLimits(t *testing.T) {
	m := Message{Op: OpSetup, Fields: []string{strings.Repeat("x", MaxMessage)}}
	if b, err := m.Append([]byte("kept")); err == nil || string(b) != "kept" {
		t.Errorf("a message above the limit was made: %v, %.10q", err, b)
	}
	for name, wire := range map[string]string{
		"too long":       "\xff\xff\xff\x7f",
		"too short":      "\x04\x00\x00\x00\x00\x00\x00\x00",
		"cut off":        "\x10\x00\x00\x00\x00\x00\x00\x00",
		"string too big": "\x08\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff",
	} {
		if m, err := ReadMessage(strings.NewReader(wire)); err == nil {
			t.Errorf("%s: read as %v", name, m)
		}
	}
	if _, err := ReadMessage(strings.NewReader("")); err != io.EOF {
		t.Errorf("the end between messages is %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	b, _ := Message{Seq: 3, Op: OpCreate, Fields: CreateRequest{ID: "ab"}.Fields()}.Append(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, wire []byte) {
		m, err := ReadMessage(bytes.NewReader(wire))
		if err != nil {
			return
		}
		again, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ReadMessage(bytes.NewReader(again)); err != nil || !reflect.DeepEqual(back, m) {
			t.Fatalf("%v became %v, %v", m, back, err)
		}
		// None of these may panic.
		_, _ = parseCreate(m.Fields)
		_, _ = parseRun(m.Fields)
		_, _ = ParseExit(m)
		_, _ = ParseState(m)
	})
}

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	want := CreateRequest{
		ID: "0a", Runtime: "/bin/runc", RuntimeRoot: "/r", LogDir: "/l", LogPath: "c/0.log", StopSignal: 15,
		TrackDir: "/t", TrackPrefix: "freezer:", OOMFile: "/o", Sweep: true, Stdin: true, StdinOnce: true, TTY: true,
		RuntimeArgs: []string{"--platform", "kvm"}, ExecCgroup: true,
	}
	if got, err := parseCreate(want.Fields()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, id := range []string{"", "../x", "a/b", "A"} {
		bad := want
		bad.ID = id
		if _, err := parseCreate(bad.Fields()); err == nil {
			t.Errorf("ID %q was taken", id)
		}
	}
	group := RunRequest{Group: "0f", Create: []CreateRequest{want, {ID: "1", RuntimeArgs: []string{}}}, Start: []string{"2", "3"}}
	if got, err := parseRun(group.Fields()); err != nil || !reflect.DeepEqual(got, group) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, count := range []string{"-1", "4", "9999999999", "x"} {
		fields := group.Fields()
		fields[1] = count
		if got, err := parseRun(fields); err == nil {
			t.Errorf("a count of %s was taken: %+v", count, got)
		}
	}
	exit := Exit{ID: "0a", Code: 137, OOM: true, StartError: "why", At: time.Unix(1, 2)}
	if got, err := ParseExit(Message{Fields: exit.Fields()}); err != nil || !got.At.Equal(exit.At) || got.Code != 137 || !got.OOM || got.StartError != "why" {
		t.Errorf("got %+v, %v", got, err)
	}
	live := Live{ID: "0b", PID: 5, Started: time.Unix(3, 4)}
	got, err := ParseState(Message{Fields: append(live.fields(), Live{ID: "0c"}.fields()...)})
	if err != nil || len(got) != 2 || !got[0].Started.Equal(live.Started) || !got[1].Started.IsZero() {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestExitRecordsAreJSON(t *testing.T) {
	for _, text := range []string{"", `exec: "/no\such": not found`, "tab\t, newline\n, zero\x00, ümläut, broken \xff"} {
		e := Exit{Code: 128, OOM: true, StartError: text, At: time.Unix(0, 1234567890123456789)}
		var r ExitRecord
		if err := json.Unmarshal(e.record(), &r); err != nil {
			t.Fatalf("%q: %v in %s", text, err, e.record())
		}
		want := strings.ToValidUTF8(text, "\uFFFD")
		if r.Code != 128 || !r.OOM || r.StartError != want || r.UnixNano != 1234567890123456789 {
			t.Errorf("%q became %+v", text, r)
		}
	}
}

// writeLog writes chunks to a log and gives what a reader makes of it.
func writeLog(t *testing.T, chunks ...string) (text string, records []crilog.Record) {
	t.Helper()
	dir := t.TempDir()
	l, err := openLog(dir, "c/0.log")
	if err != nil {
		t.Fatal(err)
	}
	var scratch []byte
	for _, c := range chunks {
		scratch = l.write(0, []byte(c), scratch, time.Unix(1, 0))
	}
	l.finish(0, time.Unix(2, 0))
	l.close()
	data, err := os.ReadFile(filepath.Join(dir, "c/0.log"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range bytes.Lines(data) {
		r, err := crilog.ParseLine(line)
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		b.Write(r.Data)
		if !r.Partial {
			b.WriteByte('\n')
		}
		records = append(records, r)
	}
	return b.String(), records
}

func TestLogsSplitLinesAsTheFormatSays(t *testing.T) {
	part := strings.Repeat("x", crilog.MaxPart)
	for name, test := range map[string]struct {
		chunks []string
		parts  string // P and F
	}{
		"lines":                   {[]string{"a\nb\n"}, "FF"},
		"a line in pieces":        {[]string{"a", "b", "c\n"}, "F"},
		"empty lines":             {[]string{"\n", "\n"}, "FF"},
		"no newline at the end":   {[]string{"a\nb"}, "FP"},
		"exactly a part":          {[]string{part + "\n"}, "F"},
		"exactly a part in two":   {[]string{part, "\n"}, "F"},
		"a byte more":             {[]string{part + "x\n"}, "PF"},
		"a byte more, later":      {[]string{part, "x\n"}, "PF"},
		"three parts and a line":  {[]string{part + part + part + "x\ny\n"}, "PPPFF"},
		"zero bytes and no UTF-8": {[]string{"\x00\xff\n"}, "F"},
	} {
		all := strings.Join(test.chunks, "")
		text, records := writeLog(t, test.chunks...)
		if text != all {
			t.Errorf("%s: %d bytes became %d", name, len(all), len(text))
		}
		tags := ""
		for _, r := range records {
			tags += map[bool]string{true: "P", false: "F"}[r.Partial]
		}
		if tags != test.parts {
			t.Errorf("%s: tags are %s, want %s", name, tags, test.parts)
		}
	}
}

func FuzzLogWriter(f *testing.F) {
	f.Add("a\nb", uint16(1))
	f.Add(strings.Repeat("x", 3*crilog.MaxPart), uint16(crilog.MaxPart))
	f.Fuzz(func(t *testing.T, text string, size uint16) {
		var chunks []string
		for rest := text; rest != ""; {
			n := min(int(size)+1, len(rest))
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		var out, rest []byte
		for _, c := range chunks {
			out, rest = records(out, rest, []byte(c), crilog.Stdout, time.Unix(1, 0))
		}
		var got strings.Builder
		for line := range bytes.Lines(out) {
			r, err := crilog.ParseLine(line)
			if err != nil || len(r.Data) > crilog.MaxPart {
				t.Fatalf("record of %d bytes, %v", len(r.Data), err)
			}
			got.Write(r.Data)
			if !r.Partial {
				got.WriteByte('\n')
			}
		}
		got.Write(rest)
		if got.String() != text {
			t.Fatalf("%q in pieces of %d became %q", text, size, got.String())
		}
	})
}

func TestReopenedLogsGoOnInTheNewFile(t *testing.T) {
	dir := t.TempDir()
	l, err := openLog(dir, "0.log")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "0.log")
	l.write(0, []byte("old\nbegun "), nil, time.Now())
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	l.write(0, []byte("and ended\n"), nil, time.Now())
	l.close()
	before, _ := os.ReadFile(path + ".1")
	after, _ := os.ReadFile(path)
	if !strings.HasSuffix(string(before), " F old\n") || !strings.HasSuffix(string(after), " F begun and ended\n") {
		t.Errorf("before %q, after %q", before, after)
	}
	if err := l.reopen(); err == nil {
		t.Error("a closed log was opened again")
	}
}

func TestLogsStayBelowTheirDirectory(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for link, target := range map[string]string{"file": outside, "dir": filepath.Dir(outside), "up": ".."} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"file", "dir/outside", "up/x", "../x", "/x", "."} {
		if l, err := openLog(dir, path); err == nil {
			l.close()
			t.Errorf("%q was opened", path)
		}
	}
	if data, _ := os.ReadFile(outside); string(data) != "untouched" {
		t.Errorf("outside holds %q", data)
	}
}

func TestFilesAreReplacedWhole(t *testing.T) {
	for name, write := range map[string]func(dir, name string, data []byte) error{
		"WriteFile": WriteFile,
		"writeSeen": func(dir, name string, data []byte) error {
			lasting, err := writeSeen(dir, name, data)
			if err != nil {
				return err
			}
			return lasting()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, text := range []string{"first", "second"} {
				if err := write(dir, "f", []byte(text)); err != nil {
					t.Fatal(err)
				}
				if data, _ := os.ReadFile(filepath.Join(dir, "f")); string(data) != text {
					t.Errorf("the file holds %q", data)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("left beside it: %v", entries)
			}
			if err := write(filepath.Join(dir, "none"), "f", nil); err == nil {
				t.Error("a file was written into no directory")
			}
		})
	}
}
