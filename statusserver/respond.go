package statusserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const (
	jsonType = "application/json"
	textType = "text/plain; charset=utf-8"
	// gzipFrom is the size from which compression pays, in bytes.
	gzipFrom = 4 << 10
)

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return w
}}

// respond sends a whole answer, compressed when it is big and the client can.
func respond(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Add("Vary", "Accept-Encoding")
	if len(body) >= gzipFrom && acceptsGzip(r) {
		var packed bytes.Buffer
		z := gzipWriters.Get().(*gzip.Writer)
		z.Reset(&packed)
		_, err := z.Write(body)
		if closeErr := z.Close(); err == nil {
			err = closeErr
		}
		gzipWriters.Put(z)
		if err == nil {
			header.Set("Content-Encoding", "gzip")
			body = packed.Bytes()
		}
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // an error is the client's going away
}

func acceptsGzip(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(value, ",") {
			coding, params, _ := strings.Cut(part, ";")
			if strings.TrimSpace(coding) != "gzip" {
				continue
			}
			q, found := strings.CutPrefix(strings.TrimSpace(params), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			return !found || (err == nil && weight > 0)
		}
	}
	return false
}

func (s *Server) respondJSON(w http.ResponseWriter, r *http.Request, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		s.providerFailed(w, r, fmt.Errorf("encode answer: %w", err))
		return
	}
	respond(w, r, jsonType, append(body, '\n'))
}

// respondEither sends value as JSON, or as text to those who ask for text.
func (s *Server) respondEither(w http.ResponseWriter, r *http.Request, value fmt.Stringer) {
	w.Header().Add("Vary", "Accept")
	if wantsText(r) {
		text := value.String()
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		respond(w, r, textType, []byte(text))
		return
	}
	s.respondJSON(w, r, value)
}

// wantsText looks at ?format= first, then at which type Accept names first.
func wantsText(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "text"
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(kind) {
		case "text/plain":
			return true
		case jsonType:
			return false
		}
	}
	return false
}

// providerFailed answers with the status that the error stands for.
func (s *Server) providerFailed(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status >= http.StatusInternalServerError && r.Context().Err() == nil {
		s.config.Logger.Error(err, "provider failed", "path", r.URL.Path)
	}
	fail(w, status, err.Error())
}
