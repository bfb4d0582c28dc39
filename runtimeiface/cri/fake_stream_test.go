package cri_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// streamer is a runtime's streaming server.
type streamer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	// serve has the streams by type, once all of those awaited are there.
	serve  func(map[string]httpstream.Stream)
	awaits int
	answer http.HandlerFunc // instead of an upgrade
}

func newStreamer(awaits int, serve func(map[string]httpstream.Stream)) *streamer {
	s := &streamer{awaits: awaits, serve: serve}
	s.Server = httptest.NewServer(s)
	DeferCleanup(s.Close)
	return s
}

func (s *streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io", "portforward.k8s.io"}); err != nil {
		return
	}
	type arrival struct {
		stream httpstream.Stream
		reply  <-chan struct{}
	}
	arrived := make(chan arrival)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, reply <-chan struct{}) error {
		arrived <- arrival{stream, reply}
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	streams := map[string]httpstream.Stream{}
	for range s.awaits {
		select {
		case a := <-arrived:
			<-a.reply
			streams[a.stream.Headers().Get("streamType")] = a.stream
		case <-conn.CloseChan():
			return
		}
	}
	s.serve(streams)
	// What was said last is lost if the connection is closed while the other end
	// still says something. It hangs up by itself once it has a status.
	select {
	case <-conn.CloseChan():
	case <-time.After(500 * time.Millisecond):
	}
}

func (s *streamer) heard() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *server) Exec(context.Context, *api.ExecRequest) (*api.ExecResponse, error) {
	return &api.ExecResponse{Url: s.address()}, nil
}

func (s *server) Attach(context.Context, *api.AttachRequest) (*api.AttachResponse, error) {
	return &api.AttachResponse{Url: s.address()}, nil
}

func (s *server) PortForward(context.Context, *api.PortForwardRequest) (*api.PortForwardResponse, error) {
	return &api.PortForwardResponse{Url: s.address()}, nil
}

func (s *server) ExecSync(context.Context, *api.ExecSyncRequest) (*api.ExecSyncResponse, error) {
	return &api.ExecSyncResponse{Stdout: []byte("in one message"), ExitCode: 5}, nil
}

func (s *server) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

func (s *server) streamsAt(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = address
}

// tcpPair is a connection and its other end.
func tcpPair() (near, far *net.TCPConn) {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = listener.Close() }()
	there, err := net.Dial("tcp", listener.Addr().String())
	Expect(err).NotTo(HaveOccurred())
	here, err := listener.Accept()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = there.Close(); _ = here.Close() })
	return here.(*net.TCPConn), there.(*net.TCPConn)
}

var _ = Describe("streams of a CRI", func() {
	var (
		s      *server
		rt     *cri.Runtime
		ctx    context.Context
		ignore goleak.Option
		id     string
	)
	BeforeEach(func() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
		DeferCleanup(cancel)
		s = newServer()
		rt = s.dial()
		sb, err := rt.RunSandbox(ctx, podSpec("one"))
		Expect(err).NotTo(HaveOccurred())
		spec := containerSpec("app")
		spec.Stdin = true
		id, err = rt.CreateContainer(ctx, sb, spec)
		Expect(err).NotTo(HaveOccurred())
		Expect(rt.StartContainer(ctx, id)).To(Succeed())
	})
	clean := func() {
		GinkgoHelper()
		Eventually(func() error { return goleak.Find(ignore) }, "1m", "20ms").Should(Succeed())
	}
	cat := runtimeiface.ExecSpec{Command: []string{"cat"}}
	with := func(change func(*runtimeiface.ExecSpec)) runtimeiface.ExecSpec {
		spec := cat
		change(&spec)
		return spec
	}

	It("carry both ways, with the end of standard input told", func() {
		st := newStreamer(4, func(streams map[string]httpstream.Stream) {
			got, _ := io.ReadAll(streams["stdin"])
			_, _ = streams["stdout"].Write([]byte(strings.ToUpper(string(got))))
			_, _ = streams["stderr"].Write([]byte("aside"))
			_, _ = streams["error"].Write([]byte(`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`))
		})
		s.streamsAt(st.URL)
		ignore = goleak.IgnoreCurrent()
		var stdout, stderr strings.Builder
		code, err := rt.Exec(ctx, id, with(func(e *runtimeiface.ExecSpec) {
			e.Stdin, e.Stdout, e.Stderr = strings.NewReader("said"), &stdout, &stderr
		}))
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(7))
		Expect(stdout.String()).To(Equal("SAID"))
		Expect(stderr.String()).To(Equal("aside"))
		clean()
	})

	It("tell the first size of a terminal before the command begins, and the others", func() {
		sizes := make(chan string, 1)
		st := newStreamer(3, func(streams map[string]httpstream.Stream) {
			buf := make([]byte, 1024)
			var got string
			for strings.Count(got, "\n") < 3 {
				n, err := streams["resize"].Read(buf)
				if err != nil {
					break
				}
				got += string(buf[:n])
			}
			sizes <- got
			_, _ = streams["error"].Write([]byte(`{"status":"Success"}`))
		})
		s.streamsAt(st.URL)
		ignore = goleak.IgnoreCurrent()
		resize := make(chan runtimeiface.TerminalSize, 3)
		for i := range uint16(3) {
			resize <- runtimeiface.TerminalSize{Width: 80 + i, Height: 25}
		}
		code, err := rt.Exec(ctx, id, with(func(e *runtimeiface.ExecSpec) { e.TTY, e.Resize = true, resize }))
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero())
		Expect(<-sizes).To(Equal(`{"Width":80,"Height":25}` + "\n" + `{"Width":81,"Height":25}` + "\n" + `{"Width":82,"Height":25}` + "\n"))
		clean()
	})

	It("end with ctx, whatever the server does", func() {
		hold := make(chan struct{})
		var once sync.Once
		DeferCleanup(func() { once.Do(func() { close(hold) }) })
		st := newStreamer(3, func(map[string]httpstream.Stream) { <-hold })
		s.streamsAt(st.URL)
		for _, answer := range []http.HandlerFunc{nil, func(http.ResponseWriter, *http.Request) { <-hold }} {
			st.mu.Lock()
			st.answer = answer
			st.mu.Unlock()
			short, cancel := context.WithCancel(ctx)
			over := make(chan error, 2)
			before := len(st.heard())
			go func() { over <- rt.Attach(short, id, runtimeiface.AttachSpec{}) }()
			go func() { _, err := rt.Exec(short, id, cat); over <- err }()
			Eventually(st.heard, "1m").Should(HaveLen(before + 2))
			cancel()
			Eventually(over, "1m").Should(Receive(MatchError(context.Canceled)))
			Eventually(over, "1m").Should(Receive(MatchError(context.Canceled)))
		}
		once.Do(func() { close(hold) })
	})

	It("end with the Runtime", func() {
		hold := make(chan struct{})
		DeferCleanup(func() { close(hold) })
		st := newStreamer(3, func(map[string]httpstream.Stream) { <-hold })
		s.streamsAt(st.URL)
		over := make(chan error, 2)
		go func() { over <- rt.Attach(ctx, id, runtimeiface.AttachSpec{}) }()
		go func() { _, err := rt.Exec(ctx, id, cat); over <- err }()
		Eventually(st.heard, "1m").Should(HaveLen(2))
		Expect(rt.Close()).To(Succeed())
		Expect(<-over).To(HaveOccurred())
		Expect(<-over).To(HaveOccurred())
	})

	It("that are lost are told as unavailable", func() {
		st := newStreamer(3, func(map[string]httpstream.Stream) {})
		s.streamsAt(st.URL)
		code, err := rt.Exec(ctx, id, cat)
		Expect(code).To(Equal(-1))
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
		Expect(rt.Attach(ctx, id, runtimeiface.AttachSpec{})).To(MatchError(runtimeiface.ErrUnavailable))
	})

	It("let a command that says more than its reader takes end", func() {
		st := newStreamer(3, func(streams map[string]httpstream.Stream) {
			for range 100 {
				_, _ = streams["stdout"].Write(make([]byte, 1<<16))
			}
			_, _ = streams["error"].Write([]byte(`{"status":"Success"}`))
		})
		s.streamsAt(st.URL)
		code, err := rt.Exec(ctx, id, with(func(e *runtimeiface.ExecSpec) { e.Stdout = refusing{} }))
		Expect(code).To(BeZero())
		Expect(err).To(MatchError(io.ErrClosedPipe))
	})

	It("follow no redirect", func() {
		other := newStreamer(0, nil)
		st := newStreamer(0, nil)
		st.answer = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}
		s.streamsAt(st.URL)
		Expect(rt.Attach(ctx, id, runtimeiface.AttachSpec{})).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring("307"))))
		Expect(other.heard()).To(BeEmpty())
	})

	It("are left for ExecSync where they cannot be had", func() {
		for _, address := range []string{
			"http://192.0.2.1:80/exec/x", "http://example.com:80/exec/x", "ftp://127.0.0.1:80/x", "http://127.0.0.1/x", "http://u:p@127.0.0.1:80/x",
		} {
			s.streamsAt(address)
			err := rt.Attach(ctx, id, runtimeiface.AttachSpec{})
			Expect(err).To(MatchError(runtimeiface.ErrNotSupported), address)
			Expect(err.Error()).NotTo(ContainSubstring(":p@"))
			var out strings.Builder
			code, err := rt.Exec(ctx, id, with(func(e *runtimeiface.ExecSpec) { e.Stdout = &out }))
			Expect(err).NotTo(HaveOccurred())
			Expect(code).To(Equal(5))
			Expect(out.String()).To(Equal("in one message"))
			_, err = rt.Exec(ctx, id, with(func(e *runtimeiface.ExecSpec) { e.TTY = true }))
			Expect(err).To(MatchError(runtimeiface.ErrNotSupported), address)
		}
	})

	It("may be at every address of this node, and without a scheme", func() {
		st := newStreamer(3, func(streams map[string]httpstream.Stream) {
			_, _ = streams["error"].Write([]byte(`{"status":"Success"}`))
		})
		_, port, _ := strings.Cut(strings.TrimPrefix(st.URL, "http://"), ":")
		for _, address := range []string{"//0.0.0.0:" + port + "/cri/exec/x", "http://localhost:" + port + "/exec/x"} {
			s.streamsAt(address)
			Expect(rt.Attach(ctx, id, runtimeiface.AttachSpec{})).To(Succeed(), address)
		}
		Expect(st.heard()[0].URL.Path).To(Equal("/cri/exec/x"))
	})

	It("of a port end with what the runtime says of it", func() {
		st := newStreamer(2, func(streams map[string]httpstream.Stream) {
			_, _ = streams["error"].Write([]byte("dial tcp4 127.0.0.1:80: connect: connection refused"))
			_ = streams["data"].Reset()
		})
		s.streamsAt(st.URL)
		near, far := tcpPair()
		err := rt.PortForward(ctx, "sandbox-1", 80, near)
		Expect(err).To(And(MatchError(runtimeiface.ErrUnavailable), MatchError(ContainSubstring("refused"))))
		_, err = io.ReadAll(far)
		Expect(err).NotTo(HaveOccurred())
	})
})

// refusing takes nothing.
type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
