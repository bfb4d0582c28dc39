package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A download is the blob of one layer on its way to ingest/. Its file stays
// when the connection breaks or the process is killed, and is gone on with,
// from whatever source.
type download struct {
	store *Store
	from  []*source // the best first; those that gave wrong content leave
	desc  v1.Descriptor
	f     *flight

	file *os.File
	sum  hash.Hash
	have int64 // bytes in file, and in sum
	most int64 // the most that have ever was
	// by is who gave what is here, unless mixed: then more than one, or an
	// earlier pull. After alone, one source has to give all.
	by           *source
	mixed, alone bool
}

// fetch downloads and verifies a blob, and gives its file, to be closed and
// removed by the caller. Nothing is left after corrupt content or a full disk.
func (s *Store) fetch(ctx context.Context, from []*source, desc v1.Descriptor, f *flight) (*os.File, error) {
	path := s.path("ingest", dirName(desc.Digest.String()))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, translate(err)
	}
	d := &download{store: s, from: slices.Clone(from), desc: desc, f: f, file: file}
	if err = d.resume(ctx); err == nil {
		err = s.needSpace(desc.Size - d.have)
	}
	if err == nil {
		err = s.retry(ctx, func() (bool, error) {
			before := d.most
			err := d.round(ctx)
			return d.most > before, err
		})
	}
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrDiskFull) || d.have == 0 {
		_ = os.Remove(path)
	}
	return nil, err
}

// resume reads what an earlier download left.
func (d *download) resume(ctx context.Context) error {
	if err := d.reset(); err != nil {
		return err
	}
	if info, err := d.file.Stat(); err != nil || info.Size() > d.desc.Size {
		return errors.Join(err, d.file.Truncate(0))
	}
	buf := make([]byte, 1<<20)
	for {
		n, err := d.file.Read(buf)
		d.add(buf[:n])
		if d.mixed = d.have > 0; err == io.EOF {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

func (d *download) reset() error {
	sum, err := v1.Hasher(d.desc.Digest.Algorithm)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	d.sum, d.have, d.by, d.mixed = sum, 0, nil, false
	d.f.done.Store(0)
	_, err = d.file.Seek(0, io.SeekStart)
	return err
}

func (d *download) restart() error { return errors.Join(d.reset(), d.file.Truncate(0)) }

// add counts bytes that are in file.
func (d *download) add(p []byte) {
	_, _ = d.sum.Write(p)
	d.have += int64(len(p))
	d.most = max(d.most, d.have)
	d.f.done.Store(d.have)
}

// round asks one source after the other for what is missing.
func (d *download) round(ctx context.Context) error {
	var errs []error
	for i := 0; i < len(d.from); {
		src := d.from[i]
		if d.alone && d.by != src {
			if err := d.restart(); err != nil {
				return err
			}
		}
		var local error
		err := src.do(ctx, func(r *remote) (err error) {
			local, err = d.get(ctx, r, src)
			return err
		})
		if err == nil && local == nil {
			err = d.verify()
		}
		switch {
		case local != nil:
			return local
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		wrong := errors.Is(err, ErrCorrupt)
		if wrong && d.mixed && !d.alone {
			// Whose bytes are wrong is unknown.
			d.alone = true
			if err := d.restart(); err != nil {
				return err
			}
			continue
		}
		errs = append(errs, err)
		if wrong && len(d.from) > 1 {
			d.from = slices.Delete(d.from, i, i+1)
			if d.by == src {
				if err := d.restart(); err != nil {
					return err
				}
			}
			continue
		}
		i++
	}
	// While one may come back there is hope.
	return combine(errs, max(0, slices.IndexFunc(errs, func(err error) bool { return errors.Is(err, ErrUnavailable) })))
}

func (d *download) verify() error {
	got := fmt.Sprintf("%s:%x", d.desc.Digest.Algorithm, d.sum.Sum(nil))
	if got != d.desc.Digest.String() {
		return fmt.Errorf("%w: digest is %s", ErrCorrupt, got)
	}
	return nil
}

// get makes one request for the rest. Errors of this machine are apart: no
// other source does better.
func (d *download) get(ctx context.Context, r *remote, src *source) (local, err error) {
	if d.have == d.desc.Size {
		return nil, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timeout := d.store.cfg.StallTimeout
	stalled := time.AfterFunc(timeout, func() {
		cancel(fmt.Errorf("%w: no byte within %v", ErrUnavailable, timeout))
	})
	defer stalled.Stop()

	local, err = d.copyFrom(ctx, r, src, func() { stalled.Reset(timeout) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return local, err
}

func (d *download) copyFrom(ctx context.Context, r *remote, src *source, alive func()) (local, err error) {
	var rest string
	if d.have > 0 {
		rest = fmt.Sprintf("%d-%d", d.have, d.desc.Size-1)
	}
	resp, err := r.get(ctx, "blobs", d.desc.Digest.String(), nil, rest)
	if status := new(registryError); errors.As(err, &status) && status.status == http.StatusRequestedRangeNotSatisfiable {
		return nil, fmt.Errorf("%w: the registry has %d of %d bytes", ErrCorrupt, d.have, d.desc.Size)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	resumed := resp.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.have))
	if !resumed && resp.StatusCode == http.StatusPartialContent {
		return nil, fmt.Errorf("%w: answered with %q", ErrUnavailable, resp.Header.Get("Content-Range"))
	}
	if !resumed && d.have > 0 {
		if err := d.restart(); err != nil {
			return err, nil
		}
	}
	if n := resp.ContentLength; n >= 0 && n != d.desc.Size-d.have {
		return nil, fmt.Errorf("%w: the registry has %d bytes, the manifest says %d", ErrCorrupt, d.have+n, d.desc.Size)
	}
	if d.have > 0 && d.by != src {
		d.mixed = true
	}
	d.by = src
	return d.copyBody(resp.Body, alive)
}

func (d *download) copyBody(body io.Reader, alive func()) (local, err error) {
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if int64(n) > d.desc.Size-d.have {
			return nil, fmt.Errorf("%w: more than the %d bytes of the manifest", ErrCorrupt, d.desc.Size)
		}
		if n > 0 {
			alive()
			if _, err := d.file.Write(buf[:n]); err != nil {
				return err, nil
			}
			d.add(buf[:n])
		}
		if err == io.EOF && d.have == d.desc.Size {
			return nil, nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("%w: connection broke at byte %d of %d: %w", ErrUnavailable, d.have, d.desc.Size, err)
		}
	}
}
