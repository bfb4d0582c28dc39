package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Whiteouts as image-spec v1.1.1, layer.md, has them.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // of AUFS; means nothing here
	opaqueMarker   = ".wh..wh..opq"
)

// maxNames is what the paths of one layer may take together. A million entries
// of an ordinary image take less than 100 MiB.
const maxNames = 128 << 20

// errEscape is a path that leads out of the layer.
var errEscape = errors.New("path leads out of the layer")

// budget is what one layer may still use.
type budget struct {
	ctx     context.Context // of the extraction only
	bytes   int64
	entries int
	names   int    // bytes of paths, which are kept in memory
	reason  string // what the limit on bytes comes from
}

func (s *Store) newBudget(ctx context.Context, blob int64) *budget {
	b := &budget{ctx: ctx, bytes: s.cfg.MaxLayerBytes, entries: s.cfg.MaxEntries, names: maxNames}
	b.reason = fmt.Sprintf("the limit of %d bytes", b.bytes)
	if most := expansionFloor + blob*s.cfg.MaxExpansion; most/s.cfg.MaxExpansion >= blob && most < b.bytes {
		b.bytes = most
		b.reason = fmt.Sprintf("%d times its %d bytes and %d bytes", s.cfg.MaxExpansion, blob, int64(expansionFloor))
	}
	return b
}

func (b *budget) check(bytes int64) error {
	if bytes < 0 || bytes > b.bytes {
		return fmt.Errorf("%w: it unpacks to more than %s", ErrRefused, b.reason)
	}
	return nil
}

// entry takes one of the entries, with a path of n bytes.
func (b *budget) entry(n int) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if b.entries--; b.entries < 0 {
		return fmt.Errorf("%w: it has more entries than the limit", ErrRefused)
	}
	if b.names -= n; b.names < 0 {
		return fmt.Errorf("%w: its paths take more than %d bytes", ErrRefused, maxNames)
	}
	return nil
}

// content is the uncompressed layer: counted against the budget and hashed.
type content struct {
	from   io.Reader
	sum    hash.Hash
	read   int64
	budget *budget
}

func (c *content) Read(p []byte) (int, error) {
	if err := c.budget.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(p)
	c.read += int64(n)
	if over := c.budget.check(c.read); over != nil {
		return 0, over
	}
	_, _ = c.sum.Write(p[:n])
	return n, err
}

// diffID is the digest of the whole content, what follows the archive's end
// included.
func (c *content) diffID() (string, error) {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(c.sum.Sum(nil)), nil
}

// open tells the compression by the first bytes, as media types are often
// wrong, and gives the content and its release.
func (b *budget) open(blob io.Reader) (*content, func(), error) {
	in := bufio.NewReaderSize(blob, 256<<10)
	magic, _ := in.Peek(4)
	c := &content{from: in, sum: sha256.New(), budget: b}
	release := func() {}
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
		}
		c.from = z
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
		}
		c.from, release = z, z.Close
	}
	return c, release, nil
}

// nextEntry gives the next header, or io.EOF. Errors of the archive itself are
// ErrCorrupt.
func nextEntry(tr *tar.Reader) (*tar.Header, error) {
	hdr, err := tr.Next()
	if err == io.EOF {
		return nil, err
	}
	return hdr, corrupt(err)
}

// corrupt marks errors of decompression and of the archive.
func corrupt(err error) error {
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return mark(ErrCorrupt, err)
}

// entryPath gives the path of an entry below the root, "." for the root
// itself. Absolute names are taken from the layer's root, as every runtime
// does; names that climb above it are refused.
func entryPath(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: name with a NUL byte", ErrRefused)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%w: %w", ErrRefused, errEscape)
	}
	return clean, nil
}

// whiteout tells what an entry of that base name hides: "" and false for an
// ordinary entry, "" and true for one to be skipped.
func whiteout(base string) (hidden string, is bool, err error) {
	hidden, is = strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !is || strings.HasPrefix(base, whiteoutMeta):
		return "", is, nil
	case hidden == "" || hidden == "." || hidden == "..":
		return "", true, fmt.Errorf("%w: whiteout of %q", ErrRefused, hidden)
	}
	return hidden, true, nil
}

// keepXattr tells whether an extended attribute of an image may be set.
// trusted.overlay.* and user.overlay.* would speak to the overlay itself,
// security.selinux and the like belong to the host.
func keepXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."), name == "security.capability":
		return true
	}
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}
