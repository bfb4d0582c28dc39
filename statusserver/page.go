package statusserver

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"path"
)

//go:embed ui
var pageFiles embed.FS

// page is the embedded page, each file with a tag by which browsers know
// whether theirs is still good.
type page struct {
	files map[string]pageFile
}

type pageFile struct {
	contentType string
	body        []byte
	tag         string
}

func newPage() *page {
	p := &page{files: map[string]pageFile{}}
	entries, err := pageFiles.ReadDir("ui")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	for _, entry := range entries {
		body, err := pageFiles.ReadFile("ui/" + entry.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		p.files[entry.Name()] = pageFile{
			contentType: contentTypeOf(entry.Name()),
			body:        body,
			tag:         `"` + hex.EncodeToString(sum[:8]) + `"`,
		}
	}
	return p
}

// contentTypeOf does not ask the system, whose tables differ.
func contentTypeOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return mime.TypeByExtension(path.Ext(name))
}

func (s *Server) pageFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	file, ok := s.page.files[name]
	if !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("the page has no file %q", name))
		return
	}
	w.Header().Set("ETag", file.tag)
	w.Header().Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == file.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	respond(w, r, file.contentType, file.body)
}
