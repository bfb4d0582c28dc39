package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// entry is one entry of a layer; a nil type means a regular file.
type entry struct {
	name, link, body string
	kind             byte
	mode             int64
	uid, gid         int
	major, minor     int64
	sparse           int64 // size that a PAX 1.0 sparse file claims
	xattrs           map[string]string
	time             time.Time
}

func dir(name string) entry          { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func file(name, body string) entry   { return entry{name: name, body: body} }
func symlink(name, to string) entry  { return entry{name: name, kind: tar.TypeSymlink, link: to} }
func hardlink(name, to string) entry { return entry{name: name, kind: tar.TypeLink, link: to} }
func char(name string, a, b int64) entry {
	return entry{name: name, kind: tar.TypeChar, major: a, minor: b, mode: 0o666}
}

// archive makes an uncompressed layer.
func archive(entries ...entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		hdr := &tar.Header{
			Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			Devmajor: e.major, Devminor: e.minor, ModTime: e.time, Format: tar.FormatPAX,
		}
		if e.kind == tar.TypeReg {
			hdr.Size = int64(len(e.body))
		}
		for k, v := range e.xattrs {
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords["SCHILY.xattr."+k] = v
		}
		if e.sparse > 0 {
			sparseHeader(&buf, e)
			hdr.PAXRecords, hdr.Format = nil, tar.FormatUSTAR
		}
		Expect(w.WriteHeader(hdr)).To(Succeed(), e.name)
		_, err := io.WriteString(w, e.body)
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(w.Close()).To(Succeed())
	return buf.Bytes()
}

// sparseHeader writes the PAX header that archive/tar reads but does not write.
func sparseHeader(buf *bytes.Buffer, e entry) {
	var records string
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + e.name,
		fmt.Sprintf("GNU.sparse.realsize=%d", e.sparse)} {
		n := len(kv) + 2
		n += len(fmt.Sprint(n + len(fmt.Sprint(n))))
		records += fmt.Sprintf("%d %s\n", n, kv)
	}
	var one bytes.Buffer
	w := tar.NewWriter(&one)
	Expect(w.WriteHeader(&tar.Header{Name: "PaxHeaders/x", Typeflag: tar.TypeReg, Size: int64(len(records)), Format: tar.FormatUSTAR})).To(Succeed())
	block := one.Bytes()[:512]
	block[156] = 'x'
	// The checksum is the sum of all bytes, its own field taken as spaces.
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	buf.Write(block)
	buf.WriteString(records + strings.Repeat("\x00", (512-len(records)%512)%512))
}

func gz(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	Expect(err).NotTo(HaveOccurred())
	Expect(w.Close()).To(Succeed())
	return buf.Bytes()
}

// lay makes a gzip layer of entries.
func lay(entries ...entry) v1.Layer { return blobLayer(gz(archive(entries...)), archive(entries...)) }

// rawLayer has a blob and the diff ID of content, whether or not they match.
type rawLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l rawLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

func blobLayer(blob, content []byte) v1.Layer {
	diffID, _, err := v1.SHA256(bytes.NewReader(content))
	Expect(err).NotTo(HaveOccurred())
	return rawLayer{static.NewLayer(blob, types.OCILayer), diffID}
}

// randomLayer has one file of n incompressible bytes.
func randomLayer(seed, n int64) v1.Layer {
	data := make([]byte, n)
	_, _ = rand.New(rand.NewSource(seed)).Read(data)
	return lay(file(fmt.Sprintf("file-%d", seed), string(data)))
}

// imageOf makes an image for this machine.
func imageOf(layers ...v1.Layer) v1.Image { return imageFor(runtime.GOARCH, layers...) }

func imageFor(arch string, layers ...v1.Layer) v1.Image {
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	Expect(err).NotTo(HaveOccurred())
	cfg, err := img.ConfigFile()
	Expect(err).NotTo(HaveOccurred())
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config = v1.Config{
		Entrypoint: []string{"/web"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, WorkingDir: "/srv",
		User: "1000:1000", StopSignal: "SIGQUIT", Labels: map[string]string{"k": "v"},
		Volumes: map[string]struct{}{"/data": {}}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
	}
	img, err = mutate.ConfigFile(img, cfg)
	Expect(err).NotTo(HaveOccurred())
	return img
}

// hub is a registry on loopback, whose answers tests may change on the way.
type hub struct {
	host  string
	close func()
	mu    sync.Mutex
	wrap  func(w http.ResponseWriter, r *http.Request, next http.Handler)
	gets  map[string]int // by path
	auths []string       // Authorization headers, the empty ones left out
}

func newHub() *hub {
	h := &hub{gets: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		wrap := h.wrap
		if r.Method == http.MethodGet {
			h.gets[r.URL.Path]++
		}
		if a := r.Header.Get("Authorization"); a != "" {
			h.auths = append(h.auths, a)
		}
		h.mu.Unlock()
		if wrap == nil {
			inner.ServeHTTP(w, r)
			return
		}
		wrap(w, r, inner)
	}))
	DeferCleanup(server.Close)
	h.close = server.Close
	h.host = strings.TrimPrefix(server.URL, "http://")
	return h
}

func (h *hub) onRequest(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrap = f
}

// shown gives the Authorization headers that came here.
func (h *hub) shown() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.auths)
}

// requests counts all GETs.
func (h *hub) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, count := range h.gets {
		n += count
	}
	return n
}

// blobGets counts requests of blobs.
func (h *hub) blobGets(digest string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for path, count := range h.gets {
		if strings.HasSuffix(path, "/blobs/"+digest) {
			n += count
		}
	}
	return n
}

// push makes img available and gives its full reference.
func (h *hub) push(repo string, img v1.Image) string {
	ref, err := name.ParseReference(h.host + "/" + repo)
	Expect(err).NotTo(HaveOccurred())
	Expect(remote.Write(ref, img)).To(Succeed())
	return ref.String()
}

func (h *hub) pushIndex(repo string, idx v1.ImageIndex) string {
	ref, err := name.ParseReference(h.host + "/" + repo)
	Expect(err).NotTo(HaveOccurred())
	Expect(remote.WriteIndex(ref, idx)).To(Succeed())
	return ref.String()
}

// stalling holds the requests that end in suffix until release or their end.
func stalling(suffix string, reached chan<- struct{}, release <-chan struct{}) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, suffix) {
			reached <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(w, r)
	}
}

// serve answers the blob with data instead, whatever was pushed.
func (h *hub) serve(digest string, data []byte) {
	h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digest) && r.Method == http.MethodGet {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// newRoot is a directory that may have mounts below it when the test ends.
func newRoot() string {
	root, err := os.MkdirTemp("", "nodekit-image-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(os.RemoveAll(root)).To(Succeed()) })
	return root
}

func open(cfg image.Config) *image.Store {
	if cfg.Root == "" {
		cfg.Root = newRoot()
	}
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = time.Millisecond
	}
	cfg.MinFreeBytes = max(cfg.MinFreeBytes, 1)
	s, err := image.Open(cfg)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		for _, id := range s.Mounted() {
			Expect(s.Unmount(id)).To(Or(Succeed(), MatchError(ContainSubstring("closed"))))
		}
		Expect(s.Close()).To(Succeed())
	})
	return s
}

// names gives what is in a directory of the store.
func names(parts ...string) []string {
	entries, err := os.ReadDir(filepath.Join(parts...))
	Expect(err).NotTo(HaveOccurred())
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// expectClean checks that nothing half-done is left.
func expectClean(root string) {
	GinkgoHelper()
	Expect(names(root, "tmp")).To(BeEmpty())
	Expect(names(root, "ingest")).To(BeEmpty())
}

func digestOf(l v1.Layer) string {
	d, err := l.Digest()
	Expect(err).NotTo(HaveOccurred())
	return d.String()
}

func diffID(l v1.Layer) string {
	d, err := l.DiffID()
	Expect(err).NotTo(HaveOccurred())
	return d.String()
}

func configDigest(img v1.Image) string {
	d, err := img.ConfigName()
	Expect(err).NotTo(HaveOccurred())
	return d.String()
}

func manifestDigest(img v1.Image) string {
	d, err := img.Digest()
	Expect(err).NotTo(HaveOccurred())
	return d.String()
}
