package statusserver

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// headerTimeout ends connections that are slow to say what they want.
	headerTimeout = 10 * time.Second
	// idleTimeout ends kept connections that say nothing.
	idleTimeout = 2 * time.Minute
	// writeTimeout bounds an answer that is no stream, and each write of one
	// that is: a client that does not read is cut off.
	writeTimeout = 30 * time.Second
	// bodyTimeout bounds how long a request may take to send its body.
	bodyTimeout = 30 * time.Second
	// maxHeader and maxBody bound what a request may send, in bytes.
	maxHeader = 64 << 10
	maxBody   = 1 << 20
	// grace is what answers under way get to finish when Run ends.
	grace = 5 * time.Second
)

// Server serves what its providers know. All of it is safe for concurrent use.
type Server struct {
	config   Config
	page     *page // nil without UI
	streams  *streamCaps
	feed     *feed
	started  atomic.Bool
	stopping chan struct{} // closed when streams have to end
	requests sync.WaitGroup
}

// New checks the config, reporting all that is wrong with it together, and
// gives a server that does nothing until Run.
func New(config Config) (*Server, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("status server config: %w", err)
	}
	config = config.withDefaults()
	s := &Server{
		config:   config,
		streams:  newStreamCaps(config.MaxStreams, config.MaxStreamsPerClient),
		feed:     newFeed(config.Pods, config.Stats, config.Burden),
		stopping: make(chan struct{}),
	}
	if config.UI {
		s.page = newPage()
	}
	return s, nil
}

// Run listens and serves until ctx ends, and returns nil then, after all
// streams were ended, other answers had five seconds to finish, and every
// goroutine is gone. It returns an error when an address cannot be bound; then
// nothing was served. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("run status server: started before")
	}
	bound, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.announce(bound)

	// Requests outlive ctx by the grace, so that a scrape is not torn.
	requestCtx, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	servers := make([]*http.Server, len(bound))
	ended := make(chan error, len(bound))
	for i, listener := range bound {
		server := s.httpServer(s.config.Listeners[i], requestCtx)
		servers[i] = server
		go func() {
			if s.config.Listeners[i].TLSConfig != nil {
				ended <- server.ServeTLS(listener, "", "")
				return
			}
			ended <- server.Serve(listener)
		}()
	}

	running := len(bound)
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-firstOf(ended, running):
		running--
	}
	close(s.stopping)
	s.shutdown(servers, cancelRequests)
	for ; running > 0; running-- {
		<-ended
	}
	s.requests.Wait()
	if failed != nil {
		return fmt.Errorf("serve status: %w", failed)
	}
	return nil
}

// firstOf gives the channel, or one that never gives when nothing runs.
func firstOf(ended chan error, running int) <-chan error {
	if running == 0 {
		return nil
	}
	return ended
}

func (s *Server) listen(ctx context.Context) ([]net.Listener, error) {
	var bound []net.Listener
	for _, l := range s.config.Listeners {
		listener, err := listen(ctx, l)
		if err != nil {
			for _, b := range bound {
				_ = b.Close()
			}
			return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
		}
		bound = append(bound, listener)
	}
	return bound, nil
}

func (s *Server) announce(bound []net.Listener) {
	addrs := make([]net.Addr, len(bound))
	for i, b := range bound {
		addrs[i] = b.Addr()
		s.config.Logger.Info("serving status", "address", b.Addr().String(), "network", b.Addr().Network())
	}
	if s.config.OnListen != nil {
		s.config.OnListen(addrs)
	}
}

// httpServer takes the context of requests as an argument because BaseContext
// is how net/http hands it on.
func (s *Server) httpServer(l Listener, requestCtx context.Context) *http.Server {
	return &http.Server{
		Handler:           s.handler(l),
		TLSConfig:         l.TLSConfig,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 64},
		ErrorLog:          log.New(logWriter{s.config.Logger.V(4)}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return requestCtx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, peerOf(conn))
		},
	}
}

func (s *Server) shutdown(servers []*http.Server, cancelRequests context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(func() {
			if server.Shutdown(ctx) != nil {
				cancelRequests()
				_ = server.Close()
			}
		})
	}
	wg.Wait()
	cancelRequests()
}

// streamContext gives a context that ends with the request's or when Run ends.
func (s *Server) streamContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-ctx.Done():
		case <-s.stopping:
			cancel()
		}
	}()
	return ctx, cancel
}
