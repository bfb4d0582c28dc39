package logs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/logs"
)

var begin = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// program writes to its log, as a runtime has it.
type program struct {
	t    *testing.T
	path string
	out  *os.File
	fail error
}

func newProgram(t *testing.T) *program {
	p := &program{t: t, path: filepath.Join(t.TempDir(), "0.log")}
	if err := p.reopen(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.out.Close() })
	return p
}

func (p *program) reopen(context.Context) error {
	if p.fail != nil {
		return p.fail
	}
	f, err := os.OpenFile(p.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if p.out != nil {
		p.out.Close()
	}
	p.out = f
	return nil
}

func (p *program) say(text string) {
	if _, err := p.out.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) names() []string {
	entries, err := os.ReadDir(filepath.Dir(p.path))
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// all is what the log holds, over all its files in order.
func (p *program) all() string {
	files, err := logs.Files(p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	var text strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.HasSuffix(file, ".gz") {
			r, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				p.t.Fatal(err)
			}
			if data, err = io.ReadAll(r); err != nil {
				p.t.Fatal(err)
			}
		}
		text.Write(data)
	}
	return text.String()
}

func (p *program) rotate(g Gomega, policy logs.Policy, at time.Time) bool {
	rotated, err := logs.Rotate(context.Background(), p.path, policy, at, p.reopen)
	g.Expect(err).NotTo(HaveOccurred())
	return rotated
}

func TestRotate(t *testing.T) {
	g := NewWithT(t)
	p := newProgram(t)
	policy := logs.Policy{MaxSize: 10, MaxFiles: 3}
	p.say("123456789")
	g.Expect(p.rotate(g, policy, begin)).To(BeFalse(), "it is not large enough")
	p.say("0")
	g.Expect(p.rotate(g, policy, begin)).To(BeTrue())
	g.Expect(p.names()).To(Equal([]string{"0.log", "0.log.20260102-150405"}))
	p.say("second----")
	g.Expect(p.rotate(g, policy, begin.Add(time.Minute))).To(BeTrue())
	g.Expect(p.names()).To(Equal([]string{"0.log", "0.log.20260102-150405.gz", "0.log.20260102-150505"}))
	g.Expect(p.all()).To(Equal("1234567890second----"))
	info, err := os.Stat(p.path + ".20260102-150405.gz")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(BeEquivalentTo(0o640), "readable by whom the log was")
	p.say("third-----")
	g.Expect(p.rotate(g, policy, begin.Add(2*time.Minute))).To(BeTrue())
	g.Expect(p.names()).To(Equal([]string{"0.log", "0.log.20260102-150505.gz", "0.log.20260102-150605"}), "three files stay")
	g.Expect(p.all()).To(Equal("second----third-----"))
}

// A clock that was set back neither overwrites a file nor changes their order.
func TestRotateClockSetBack(t *testing.T) {
	g := NewWithT(t)
	p := newProgram(t)
	policy := logs.Policy{MaxSize: 1, MaxFiles: 9}
	want := ""
	for i, at := range []time.Time{begin, begin, begin.Add(-time.Hour), begin.Add(time.Minute)} {
		text := fmt.Sprintln("line", i)
		want += text
		p.say(text)
		g.Expect(p.rotate(g, policy, at)).To(BeTrue())
	}
	g.Expect(p.all()).To(Equal(want))
	g.Expect(p.names()).To(HaveLen(5))
}

// Wherever a rotation was killed, the next one loses no line and leaves no trace
// of it.
func TestRotateAfterKill(t *testing.T) {
	pack := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return b.String()
	}
	policy := logs.Policy{MaxSize: 1, MaxFiles: 5}
	for name, left := range map[string]map[string]string{
		"compressed half":            {".20260102-120000": "old\n", ".20260102-120000.tmp": pack("old\n")[:5]},
		"compressed, not yet named":  {".20260102-120000": "old\n", ".20260102-120000.tmp": pack("old\n")},
		"compressed, original there": {".20260102-120000": "old\n", ".20260102-120000.gz": pack("old\n")},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p := newProgram(t)
			for suffix, text := range left {
				g.Expect(os.WriteFile(p.path+suffix, []byte(text), 0o600)).To(Succeed())
			}
			g.Expect(p.all()).To(Equal("old\n"), "a reader sees it once")
			p.say("new\n")
			g.Expect(p.rotate(g, policy, begin)).To(BeTrue())
			g.Expect(p.names()).To(Equal([]string{"0.log", "0.log.20260102-120000.gz", "0.log.20260102-150405"}))
			g.Expect(p.all()).To(Equal("old\nnew\n"))
		})
	}
	t.Run("moved aside, not reopened", func(t *testing.T) {
		g := NewWithT(t)
		p := newProgram(t)
		p.say("before\n")
		g.Expect(os.Rename(p.path, p.path+".20260102-120000")).To(Succeed())
		p.say("meanwhile\n") // the container writes where its descriptor leads
		g.Expect(p.rotate(g, policy, begin)).To(BeFalse())
		p.say("after\n")
		g.Expect(p.all()).To(Equal("before\nmeanwhile\nafter\n"))
	})
}

func TestRotateFails(t *testing.T) {
	g := NewWithT(t)
	p := newProgram(t)
	policy := logs.Policy{MaxSize: 1, MaxFiles: 5}
	p.say("text")
	p.fail = errors.New("no answer")
	_, err := logs.Rotate(context.Background(), p.path, policy, begin, p.reopen)
	g.Expect(err).To(MatchError(p.fail))
	g.Expect(p.names()).To(Equal([]string{"0.log"}), "the log has its name back")
	p.say(" more")
	g.Expect(p.all()).To(Equal("text more"))

	reopened := func(context.Context) error {
		return errors.Join(os.WriteFile(p.path, []byte("new"), 0o600), p.fail)
	}
	_, err = logs.Rotate(context.Background(), p.path, policy, begin, reopened)
	g.Expect(err).To(MatchError(p.fail))
	g.Expect(p.all()).To(Equal("text morenew"), "a new log that is there stays")
}

// What does not belong to a log by its name is nobody's to compress or remove.
func TestRotateLeavesOthers(t *testing.T) {
	g := NewWithT(t)
	p := newProgram(t)
	dir := filepath.Dir(p.path)
	others := []string{"0.log.bak", "0.log.20260102", "10.log.20260102-120000", "1.log", "0.log.20260102-120000.zip"}
	for _, name := range others {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)).To(Succeed())
	}
	p.say("text")
	g.Expect(p.rotate(g, logs.Policy{MaxSize: 1, MaxFiles: 2}, begin)).To(BeTrue())
	p.say("text")
	g.Expect(p.rotate(g, logs.Policy{MaxSize: 1, MaxFiles: 2}, begin.Add(time.Second))).To(BeTrue())
	g.Expect(p.names()).To(ConsistOf(append(slices.Clone(others), "0.log", "0.log.20260102-150406")))
	g.Expect(logs.Remove(p.path)).To(Succeed())
	g.Expect(p.names()).To(ConsistOf(others))
	g.Expect(logs.Remove(p.path)).To(Succeed())
}

// A link in the place of a log leads nowhere: it is not followed.
func TestRotateNoLink(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	g.Expect(os.WriteFile(victim, []byte("precious"), 0o600)).To(Succeed())
	path := filepath.Join(dir, "0.log")
	g.Expect(os.Symlink(victim, path)).To(Succeed())
	rotated, err := logs.Rotate(context.Background(), path, logs.Policy{MaxSize: 1, MaxFiles: 2}, begin, func(context.Context) error {
		t.Error("reopened")
		return nil
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rotated).To(BeFalse())

	// Nor is one in the place of a rotated file.
	g.Expect(os.Remove(path)).To(Succeed())
	g.Expect(os.WriteFile(path, []byte("text"), 0o600)).To(Succeed())
	g.Expect(os.Symlink(victim, path+".20260102-120000")).To(Succeed())
	_, err = logs.Rotate(context.Background(), path, logs.Policy{MaxSize: 1, MaxFiles: 5}, begin, func(context.Context) error { return nil })
	g.Expect(err).To(HaveOccurred())
	g.Expect(os.ReadFile(victim)).To(BeEquivalentTo("precious"))
}

func TestPolicy(t *testing.T) {
	g := NewWithT(t)
	p, err := logs.Policy{}.Complete()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p).To(Equal(logs.Policy{MaxSize: 10 << 20, MaxFiles: 5}))
	_, err = logs.Policy{MaxFiles: 1}.Complete()
	g.Expect(err).To(MatchError(ContainSubstring("MaxFiles")))
	rotated, err := logs.Rotate(context.Background(), "/nowhere/0.log", logs.Policy{MaxSize: -1}, begin, nil)
	g.Expect(rotated).To(BeFalse())
	g.Expect(err).NotTo(HaveOccurred())
}

func TestLinks(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	dir, logRoot := filepath.Join(root, "containers"), filepath.Join(root, "pods")
	g.Expect(os.MkdirAll(logRoot, 0o755)).To(Succeed())
	log := filepath.Join(logRoot, "0.log")
	g.Expect(os.WriteFile(log, []byte("text"), 0o600)).To(Succeed())
	g.Expect(logs.Link(dir, "a.log", log)).To(Succeed())
	g.Expect(logs.Link(dir, "a.log", log)).To(Succeed())
	g.Expect(os.ReadFile(filepath.Join(dir, "a.log"))).To(BeEquivalentTo("text"))
	g.Expect(logs.Link(dir, "b.log", filepath.Join(logRoot, "1.log"))).To(Succeed())
	g.Expect(logs.Link(dir, "b.log", filepath.Join(logRoot, "2.log"))).To(Succeed(), "a link that leads elsewhere is replaced")
	g.Expect(os.Readlink(filepath.Join(dir, "b.log"))).To(HaveSuffix("2.log"))
	g.Expect(os.WriteFile(filepath.Join(dir, "file.log"), []byte("text"), 0o600)).To(Succeed())
	g.Expect(logs.Link(dir, "file.log", log)).NotTo(Succeed(), "a file is not replaced")
	g.Expect(os.Symlink(filepath.Join(root, "elsewhere.log"), filepath.Join(dir, "other.log"))).To(Succeed())

	g.Expect(logs.Prune(dir, logRoot)).To(Equal([]string{"b.log"}))
	left, err := os.ReadDir(dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(HaveLen(3))
	g.Expect(logs.Prune(filepath.Join(root, "nowhere"), logRoot)).To(BeEmpty())
}

func TestLinkName(t *testing.T) {
	g := NewWithT(t)
	g.Expect(logs.LinkName("web", "default", "app", "0123")).To(Equal("web_default_app-0123.log"))
	long := logs.LinkName(strings.Repeat("p", 250), "default", "app", "0123")
	g.Expect(long).To(HaveLen(255))
	g.Expect(long).To(HaveSuffix(".log"))
}

func ExampleLinkName() {
	fmt.Println(logs.LinkName("web", "default", "app", "4f2c"))
	// Output: web_default_app-4f2c.log
}
