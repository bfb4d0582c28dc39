package crilog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/runtimeiface/crilog"
)

func num(n int64) *int64 { return &n }

// safeBuffer is a bytes.Buffer for two goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type part struct {
	stream  string
	partial bool
	text    string
}

func out(text string) part     { return part{stream: "stdout", text: text} }
func outPart(text string) part { return part{"stdout", true, text} }
func errs(text string) part    { return part{stream: "stderr", text: text} }
func errPart(text string) part { return part{"stderr", true, text} }

// records gives each part a time one second after that of the one before.
func records(first int, parts ...part) []byte {
	var b []byte
	for i, p := range parts {
		t := time.Date(2024, 1, 1, 0, 0, first+i, 0, time.UTC)
		b = crilog.AppendLine(b, t, p.stream, p.partial, []byte(p.text))
	}
	return b
}

func appendTo(path string, data []byte) {
	GinkgoHelper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(f.Close()).To(Succeed()) }()
	_, err = f.Write(data)
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("Read", func() {
	var path string
	BeforeEach(func() {
		path = filepath.Join(GinkgoT().TempDir(), "0.log")
	})

	DescribeTable("gives the part that the options ask for",
		func(ctx SpecContext, content []byte, opts crilog.Options, want string) {
			appendTo(path, content)
			var all bytes.Buffer
			Expect(crilog.Read(ctx, path, opts, &all, &all)).To(Succeed())
			Expect(all.String()).To(Equal(want))
		},
		Entry("an empty file", nil, crilog.Options{}, ""),
		Entry("all", records(0, out("a"), errs("b"), out("")), crilog.Options{}, "a\nb\n\n"),
		Entry("parts are joined", records(0, outPart("a"), outPart("b"), out("c")), crilog.Options{}, "abc\n"),
		Entry("parts are joined across the other stream",
			records(0, outPart("a"), errs("x"), out("b")), crilog.Options{}, "x\nab\n"),
		Entry("a line without an end is given without one",
			records(0, out("a"), outPart("b")), crilog.Options{}, "a\nb"),
		Entry("both streams without an end",
			records(0, errPart("e"), outPart("o")), crilog.Options{}, "oe"),
		Entry("a record without its newline", bytes.TrimSuffix(records(0, out("a"), out("b")), []byte("\n")),
			crilog.Options{}, "a\nb\n"),
		Entry("damaged records are skipped, the first one too",
			append([]byte("garbage\n"), append(records(0, out("a")), append([]byte("\x00\x00\n\n"), records(1, out("b"))...)...)...),
			crilog.Options{}, "a\nb\n"),
		Entry("one stream", records(0, out("a"), errs("b"), out("c")), crilog.Options{Stream: "stderr"}, "b\n"),
		Entry("times", records(0, out("a"), errs("b")), crilog.Options{Timestamps: true},
			"2024-01-01T00:00:00.000000000Z a\n2024-01-01T00:00:01.000000000Z b\n"),
		Entry("the time of a joined line is that of its first part",
			records(0, outPart("a"), out("b")), crilog.Options{Timestamps: true}, "2024-01-01T00:00:00.000000000Z ab\n"),
		Entry("since keeps a line of just then", records(0, out("a"), out("b"), out("c")),
			crilog.Options{Since: time.Date(2024, 1, 1, 0, 0, 1, 0, time.UTC)}, "b\nc\n"),
		Entry("since leaves out a line whose first part is older", records(0, outPart("a"), out("b"), out("c")),
			crilog.Options{Since: time.Date(2024, 1, 1, 0, 0, 1, 0, time.UTC)}, "c\n"),
		Entry("tail 0", records(0, out("a")), crilog.Options{TailLines: num(0)}, ""),
		Entry("tail 2", records(0, out("a"), errs("b"), out("c")), crilog.Options{TailLines: num(2)}, "b\nc\n"),
		Entry("tail of more than there is", records(0, out("a"), out("b")), crilog.Options{TailLines: num(9)}, "a\nb\n"),
		Entry("a negative tail is all", records(0, out("a"), out("b")), crilog.Options{TailLines: num(-1)}, "a\nb\n"),
		Entry("tail counts lines, not records",
			records(0, out("a"), outPart("b"), outPart("c"), out("d"), out("e")), crilog.Options{TailLines: num(2)}, "bcd\ne\n"),
		Entry("tail counts a line without an end",
			records(0, out("a"), out("b"), outPart("c"), outPart("d")), crilog.Options{TailLines: num(2)}, "b\ncd"),
		Entry("tail of one stream", records(0, errs("a"), errs("b"), out("c"), out("d")),
			crilog.Options{TailLines: num(1), Stream: "stderr"}, "b\n"),
		Entry("tail, then since", records(0, out("a"), out("b"), out("c")),
			crilog.Options{TailLines: num(2), Since: time.Date(2024, 1, 1, 0, 0, 2, 0, time.UTC)}, "c\n"),
		Entry("limit", records(0, out("abc"), out("def")), crilog.Options{LimitBytes: num(6)}, "abc\nde"),
		Entry("limit 0", records(0, out("abc")), crilog.Options{LimitBytes: num(0)}, ""),
		Entry("limit counts times", records(0, out("abc")), crilog.Options{LimitBytes: num(33), Timestamps: true},
			"2024-01-01T00:00:00.000000000Z ab"),
	)

	It("tails across blocks exactly as reading all and cutting does", func(ctx SpecContext) {
		var parts []part
		var lines []string
		for i := range 3000 {
			text := strings.Repeat("x", i%97) + fmt.Sprint(i)
			parts = append(parts, out(text))
			lines = append(lines, text+"\n")
		}
		appendTo(path, records(0, parts...))
		for _, n := range []int{1, 10, 500, 2999, 3000, 3001} {
			var all bytes.Buffer
			Expect(crilog.Read(ctx, path, crilog.Options{TailLines: num(int64(n))}, &all, &all)).To(Succeed())
			Expect(all.String()).To(Equal(strings.Join(lines[max(0, len(lines)-n):], "")), "tail %d", n)
		}
	})

	It("holds no more of a line than MaxLine and passes all of it on", func(ctx SpecContext) {
		long := strings.Repeat("0123456789", 100_000)
		appendTo(path, records(0, out("before"), out(long), out("after")))
		var all bytes.Buffer
		longest := 0
		w := writerFunc(func(p []byte) (int, error) {
			longest = max(longest, len(p))
			return all.Write(p)
		})
		Expect(crilog.Read(ctx, path, crilog.Options{MaxLine: 100_000}, w, w)).To(Succeed())
		Expect(all.String() == "before\n"+long+"\nafter\n").To(BeTrue())
		Expect(longest).To(BeNumerically("<", 200_000))
	})

	It("skips a damaged line longer than its buffer", func(ctx SpecContext) {
		appendTo(path, append(bytes.Repeat([]byte("z"), 300_000), '\n'))
		// What follows the first buffer is no record of its own.
		appendTo(path, append(bytes.Repeat([]byte("z"), 64<<10), records(0, out("forged"))...))
		appendTo(path, records(0, out("a")))
		var all bytes.Buffer
		Expect(crilog.Read(ctx, path, crilog.Options{}, &all, &all)).To(Succeed())
		Expect(all.String()).To(Equal("a\n"))
	})

	It("says when there is no file, and refuses what is no file", func(ctx SpecContext) {
		Expect(crilog.Read(ctx, path, crilog.Options{}, io.Discard, io.Discard)).To(MatchError(fs.ErrNotExist))
		Expect(crilog.Read(ctx, filepath.Dir(path), crilog.Options{}, io.Discard, io.Discard)).
			To(MatchError(ContainSubstring("not a regular file")))
	})

	It("gives the writer's error back", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		w := writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe })
		Expect(crilog.Read(ctx, path, crilog.Options{}, w, w)).To(MatchError(io.ErrClosedPipe))
	})
})

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var _ = Describe("Read following", func() {
	var (
		path string
		got  *safeBuffer
		done *atomic.Bool
		stop context.CancelFunc
		end  chan error
	)
	follow := func(opts crilog.Options) {
		var ctx context.Context
		ctx, stop = context.WithCancel(context.Background())
		opts.Follow = true
		opts.Poll = 30 * time.Millisecond
		opts.Done = done.Load
		go func(path string, got *safeBuffer, end chan<- error) {
			end <- crilog.Read(ctx, path, opts, got, got)
		}(path, got, end)
	}
	BeforeEach(func() {
		before := goleak.IgnoreCurrent()
		DeferCleanup(func() { Expect(goleak.Find(before)).To(Succeed()) })
		path = filepath.Join(GinkgoT().TempDir(), "0.log")
		got, done, end = &safeBuffer{}, &atomic.Bool{}, make(chan error, 1)
		DeferCleanup(func() { stop() })
	})

	It("gives new lines, also one that is written in pieces, until ctx ends", func(ctx SpecContext) {
		appendTo(path, records(0, out("a"), out("b")))
		follow(crilog.Options{TailLines: num(1)})
		Eventually(ctx, got.String).Should(Equal("b\n"))
		line := records(2, out("later"))
		appendTo(path, line[:20])
		Consistently(got.String, "80ms").Should(Equal("b\n"))
		appendTo(path, line[20:])
		Eventually(ctx, got.String).Should(Equal("b\nlater\n"))
		stop()
		Eventually(ctx, end).Should(Receive(MatchError(context.Canceled)))
	})

	It("ends when the container is done and all is read, with the last line unended", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		follow(crilog.Options{})
		Eventually(ctx, got.String).Should(Equal("a\n"))
		appendTo(path, records(1, out("b"), outPart("last words")))
		done.Store(true)
		Eventually(ctx, end).Should(Receive(BeNil()))
		Expect(got.String()).To(Equal("a\nb\nlast words"))
	})

	It("ends at once for a container that was done before", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		done.Store(true)
		follow(crilog.Options{})
		Eventually(ctx, end).Should(Receive(BeNil()))
		Expect(got.String()).To(Equal("a\n"))
	})

	It("ends when the limit is reached", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		follow(crilog.Options{LimitBytes: num(4)})
		Eventually(ctx, got.String).Should(Equal("a\n"))
		appendTo(path, records(1, out("bcdef")))
		Eventually(ctx, end).Should(Receive(BeNil()))
		Expect(got.String()).To(Equal("a\nbc"))
	})

	It("finishes a rotated file before the new one, and loses no line", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		follow(crilog.Options{})
		Eventually(ctx, got.String).Should(Equal("a\n"))
		want := "a\n"
		for i := range 5 {
			old := fmt.Sprintf("%s.%d", path, i)
			Expect(os.Rename(path, old)).To(Succeed())
			// The writer has not noticed yet.
			appendTo(old, records(1, out("to the old"), outPart("half ")))
			appendTo(path, records(2, out("and half"), out("to the new")))
			want += "to the old\nhalf and half\nto the new\n"
			Eventually(ctx, got.String).Should(Equal(want))
		}
	})

	It("waits while a rotated file has no successor", func(ctx SpecContext) {
		appendTo(path, records(0, out("a")))
		follow(crilog.Options{})
		Eventually(ctx, got.String).Should(Equal("a\n"))
		Expect(os.Rename(path, path+".1")).To(Succeed())
		appendTo(path+".1", records(1, out("b")))
		Eventually(ctx, got.String).Should(Equal("a\nb\n"))
		Consistently(end, "80ms").ShouldNot(Receive())
		appendTo(path, records(2, out("c")))
		Eventually(ctx, got.String).Should(Equal("a\nb\nc\n"))
	})

	It("begins anew when the file is truncated", func(ctx SpecContext) {
		appendTo(path, records(0, out("a"), out("b")))
		follow(crilog.Options{})
		Eventually(ctx, got.String).Should(Equal("a\nb\n"))
		Expect(os.Truncate(path, 0)).To(Succeed())
		appendTo(path, records(2, out("c")))
		Eventually(ctx, got.String).Should(Equal("a\nb\nc\n"))
	})
})

func FuzzRead(f *testing.F) {
	f.Add(records(0, out("a"), outPart("b"), errs("c")), int64(1))
	f.Add([]byte("\n\n \n"), int64(0))
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stdout F text"), int64(3))
	f.Fuzz(func(t *testing.T, content []byte, tail int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		read := func(opts crilog.Options) string {
			var b bytes.Buffer
			if err := crilog.Read(t.Context(), path, opts, &b, &b); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
		// The tail of one stream is the end of the whole of it.
		for _, stream := range []string{"stdout", "stderr"} {
			whole := read(crilog.Options{Stream: stream})
			last := read(crilog.Options{Stream: stream, TailLines: &tail})
			if !strings.HasSuffix(whole, last) {
				t.Fatalf("tail %d of %s: %q is not the end of %q", tail, stream, last, whole)
			}
			if tail >= 0 && int64(strings.Count(last, "\n")) > tail {
				t.Fatalf("tail %d of %s gives %q", tail, stream, last)
			}
		}
	})
}
