package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A download is the blob of one layer on its way to ingest/. Its file stays
// when the connection breaks or the process is killed, and is gone on with.
type download struct {
	store *Store
	from  *remote
	desc  v1.Descriptor
	f     *flight

	file *os.File
	sum  hash.Hash
	have int64 // bytes in file, and in sum
}

// fetch downloads and verifies a blob, and gives its file, to be closed and
// removed by the caller. Nothing is left after corrupt content or a full disk.
func (s *Store) fetch(ctx context.Context, from *remote, desc v1.Descriptor, f *flight) (*os.File, error) {
	path := s.path("ingest", dirName(desc.Digest.String()))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, translate(err)
	}
	d := &download{store: s, from: from, desc: desc, f: f, file: file}
	if err = d.resume(); err == nil {
		err = s.needSpace(desc.Size - d.have)
	}
	if err == nil {
		err = d.complete(ctx)
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
func (d *download) resume() error {
	if err := d.restart(); err != nil {
		return err
	}
	if info, err := d.file.Stat(); err != nil || info.Size() > d.desc.Size {
		return errors.Join(err, d.file.Truncate(0))
	}
	n, err := io.Copy(d.sum, d.file)
	d.have = n
	d.f.done.Store(n)
	return err
}

func (d *download) restart() error {
	sum, err := v1.Hasher(d.desc.Digest.Algorithm)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	d.sum, d.have = sum, 0
	d.f.done.Store(0)
	_, err = d.file.Seek(0, io.SeekStart)
	return err
}

// complete downloads what is missing. Content that began in an earlier pull
// and turns out wrong is fetched once more from its start.
func (d *download) complete(ctx context.Context) error {
	resumed := d.have > 0
	for {
		err := d.store.retry(ctx, func() (bool, error) {
			before := d.have
			err := d.get(ctx)
			return d.have > before, err
		})
		if err == nil {
			got := fmt.Sprintf("%s:%x", d.desc.Digest.Algorithm, d.sum.Sum(nil))
			if got == d.desc.Digest.String() {
				return nil
			}
			err = fmt.Errorf("%w: digest is %s", ErrCorrupt, got)
		}
		if !resumed || !errors.Is(err, ErrCorrupt) {
			return err
		}
		resumed = false
		if err := errors.Join(d.restart(), d.file.Truncate(0)); err != nil {
			return err
		}
	}
}

// get makes one request for the rest.
func (d *download) get(ctx context.Context) error {
	if d.have == d.desc.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timeout := d.store.cfg.StallTimeout
	stalled := time.AfterFunc(timeout, func() {
		cancel(fmt.Errorf("%w: no byte within %v", ErrUnavailable, timeout))
	})
	defer stalled.Stop()

	err := d.copyFrom(ctx, func() { stalled.Reset(timeout) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func (d *download) copyFrom(ctx context.Context, alive func()) error {
	var rest string
	if d.have > 0 {
		rest = fmt.Sprintf("%d-%d", d.have, d.desc.Size-1)
	}
	resp, err := d.from.get(ctx, "blobs", d.desc.Digest.String(), nil, rest)
	if status := new(transport.Error); errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return fmt.Errorf("%w: the registry has %d of %d bytes", ErrCorrupt, d.have, d.desc.Size)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	resumed := resp.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.have))
	if !resumed && resp.StatusCode == http.StatusPartialContent {
		return fmt.Errorf("%w: answered with %q", ErrUnavailable, resp.Header.Get("Content-Range"))
	}
	if !resumed && d.have > 0 {
		if err := errors.Join(d.restart(), d.file.Truncate(0)); err != nil {
			return err
		}
	}
	if n := resp.ContentLength; n >= 0 && n != d.desc.Size-d.have {
		return fmt.Errorf("%w: the registry has %d bytes, the manifest says %d", ErrCorrupt, d.have+n, d.desc.Size)
	}
	return d.copyBody(resp.Body, alive)
}

func (d *download) copyBody(body io.Reader, alive func()) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if int64(n) > d.desc.Size-d.have {
			return fmt.Errorf("%w: more than the %d bytes of the manifest", ErrCorrupt, d.desc.Size)
		}
		if n > 0 {
			alive()
			if _, err := d.file.Write(buf[:n]); err != nil {
				return err
			}
			_, _ = d.sum.Write(buf[:n])
			d.have += int64(n)
			d.f.done.Store(d.have)
		}
		if err == io.EOF && d.have == d.desc.Size {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%w: connection broke at byte %d of %d: %w", ErrUnavailable, d.have, d.desc.Size, err)
		}
	}
}
