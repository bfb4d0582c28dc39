package statusserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	if err := validNames(namespace, pod); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if len(validation.IsDNS1123Label(container)) > 0 {
		fail(w, http.StatusBadRequest, fmt.Sprintf("container: %q is not the name of a container", container))
		return
	}
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	opts.Container = container
	w.Header().Set("Content-Type", textType)
	if r.Method == http.MethodHead {
		return
	}
	out := newStreamWriter(w, opts.Follow)
	err = s.config.Logs.ContainerLogs(r.Context(), namespace, pod, container, opts, out, out)
	begun, failed := out.state()
	switch {
	case err == nil, failed:
		// All sent, or no one there to send it to.
	case r.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, r.Context().Err())):
		// The client went away, or Run ends.
	case !begun:
		s.providerFailed(w, r, fmt.Errorf("logs of container %s of pod %s/%s: %w", container, namespace, pod, err))
	default:
		// The status is sent. Cut the connection, so that the client does not
		// take what it has for all there is.
		s.config.Logger.Error(err, "log stream broke", "pod", namespace+"/"+pod, "container", container)
		panic(http.ErrAbortHandler)
	}
}

// logOptions reads and checks the query as Kubernetes v1.37.0
// pkg/kubelet/server/server.go and pkg/apis/core/validation do.
func logOptions(query url.Values) (*corev1.PodLogOptions, error) {
	opts := &corev1.PodLogOptions{}
	var errs []error
	flag := func(name string) bool {
		text, given := lookup(query, name)
		if !given {
			return false
		}
		if text == "" {
			return true
		}
		value, err := strconv.ParseBool(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is neither true nor false", name, text))
		}
		return value
	}
	number := func(name string, least int64) *int64 {
		text, given := lookup(query, name)
		if !given || text == "" {
			return nil
		}
		value, err := strconv.ParseInt(text, 10, 64)
		if err != nil || value < least {
			errs = append(errs, fmt.Errorf("%s: %q is not a number of at least %d", name, text, least))
			return nil
		}
		return &value
	}

	opts.Follow = flag("follow")
	opts.Previous = flag("previous")
	opts.Timestamps = flag("timestamps")
	opts.TailLines = number("tailLines", 0)
	opts.SinceSeconds = number("sinceSeconds", 1)
	opts.LimitBytes = number("limitBytes", 1)
	if text := query.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("sinceTime: %q is not a time such as 2006-01-02T15:04:05Z", text))
		} else {
			opts.SinceTime = &metav1.Time{Time: t}
		}
	}
	if opts.SinceTime != nil && opts.SinceSeconds != nil {
		errs = append(errs, errors.New("sinceTime and sinceSeconds: only one of them may be given"))
	}
	if text := query.Get("stream"); text != "" {
		switch text {
		case corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
			opts.Stream = &text
		default:
			errs = append(errs, fmt.Errorf("stream: %q is not All, Stdout or Stderr", text))
		}
		if opts.TailLines != nil && text != corev1.LogStreamAll {
			errs = append(errs, errors.New("tailLines and stream: the last lines of a single stream cannot be asked for"))
		}
	}
	return opts, errors.Join(errs...)
}

func lookup(query url.Values, name string) (string, bool) {
	values, given := query[name]
	if !given || len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// streamWriter writes to a client that may be slow, for as long as it likes as
// long as it reads.
type streamWriter struct {
	control *http.ResponseController
	flush   bool

	mu     sync.Mutex // a provider may write both streams at once
	w      http.ResponseWriter
	begun  bool
	failed bool
}

func newStreamWriter(w http.ResponseWriter, flush bool) *streamWriter {
	return &streamWriter{w: w, control: http.NewResponseController(w), flush: flush}
}

func (s *streamWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := s.w.Write(p)
	if err == nil && s.flush {
		err = s.control.Flush()
	}
	if err != nil {
		s.failed = true
	}
	return n, err
}

// state tells whether something was written, and whether that went wrong.
func (s *streamWriter) state() (begun, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, s.failed
}
