package statusserver

import (
	"compress/gzip"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const (
	// expositionType is what Prometheus asks for and kubelets send.
	expositionType = "text/plain; version=0.0.4; charset=utf-8"
	openMetrics    = "application/openmetrics-text"
	// openMetricsType is what the client gets who prefers that.
	openMetricsType = openMetrics + "; version=1.0.0; charset=utf-8"
	// holdBack is how much is gathered before an answer begins, so that what
	// fails early can still say so.
	holdBack = 64 << 10
)

// exposition streams metrics: at a thousand containers they are more than ten
// megabytes, which nobody wants to keep in memory.
func (s *Server) exposition(text, open MetricsWriter) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := expositions.Get().(*expositionWriter)
		defer out.release()
		out.begin(w, acceptsGzip(r))
		writer, contentType := text, expositionType
		w.Header().Add("Vary", "Accept")
		if open != nil && prefersOpenMetrics(r) {
			writer, contentType = open, openMetricsType
		}
		out.contentType = contentType
		err := writer.WriteMetrics(r.Context(), out)
		if err == nil {
			err = out.end()
		}
		switch {
		case err == nil:
		case !out.begun:
			s.providerFailed(w, r, fmt.Errorf("gather metrics: %w", err))
		default:
			if r.Context().Err() == nil && out.lost == nil {
				s.config.Logger.Error(err, "provider failed amid its answer", "path", r.URL.Path)
			}
			panic(http.ErrAbortHandler) // cuts the connection
		}
	}
}

// expositionWriter gathers what is written, and sends it, packed or not, piece
// by piece. Its room is used again.
type expositionWriter struct {
	w           http.ResponseWriter
	contentType string
	pack        bool
	begun       bool
	lost        error // the client's going away
	held        []byte
	zip         *gzip.Writer
}

var expositions = sync.Pool{New: func() any {
	zip, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	return &expositionWriter{held: make([]byte, 0, holdBack), zip: zip}
}}

func (e *expositionWriter) begin(w http.ResponseWriter, pack bool) {
	e.w, e.pack, e.begun, e.lost, e.held = w, pack, false, nil, e.held[:0]
}

func (e *expositionWriter) release() {
	e.w = nil
	e.zip.Reset(io.Discard)
	expositions.Put(e)
}

// Write gathers p, or sends it with what was gathered.
func (e *expositionWriter) Write(p []byte) (int, error) {
	if len(e.held)+len(p) <= holdBack {
		e.held = append(e.held, p...)
		return len(p), nil
	}
	if err := e.send(e.held); err != nil {
		return 0, err
	}
	e.held = e.held[:0]
	if len(p) <= holdBack {
		e.held = append(e.held, p...)
		return len(p), nil
	}
	if err := e.send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// send writes a piece; the first one begins the answer.
func (e *expositionWriter) send(p []byte) error {
	if !e.begun {
		e.head()
	}
	var err error
	if e.pack {
		_, err = e.zip.Write(p)
	} else {
		_, err = e.w.Write(p)
	}
	e.lost = err
	return err
}

func (e *expositionWriter) head() {
	header := e.w.Header()
	header.Set("Content-Type", e.contentType)
	header.Add("Vary", "Accept-Encoding")
	if e.pack {
		header.Set("Content-Encoding", "gzip")
		e.zip.Reset(e.w)
	}
	e.begun = true
}

// end sends what is left. An answer that is small as a whole has a length, and
// is not worth packing.
func (e *expositionWriter) end() error {
	if !e.begun {
		e.pack = e.pack && len(e.held) >= gzipFrom
		if !e.pack {
			e.w.Header().Set("Content-Length", strconv.Itoa(len(e.held)))
		}
	}
	if err := e.send(e.held); err != nil {
		return err
	}
	if e.pack {
		e.lost = e.zip.Close()
	}
	return e.lost
}

// prefersOpenMetrics weighs what Accept names, as Prometheus does it: the type
// of the greatest q, the first of several.
func prefersOpenMetrics(r *http.Request) bool {
	best, prefers := 0.0, false
	for _, value := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(value, ",") {
			kind, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			weight := 1.0
			if q, ok := params["q"]; ok {
				if weight, err = strconv.ParseFloat(q, 64); err != nil || !(weight >= 0 && weight <= 1) {
					continue
				}
			}
			version := params["version"]
			open := kind == openMetrics && (version == "" || version == "1.0.0")
			if weight > best && (open || kind == "text/plain" && (version == "" || version == "0.0.4")) {
				best, prefers = weight, open
			}
		}
	}
	return prefers
}
