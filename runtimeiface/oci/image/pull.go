package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Pull brings an image here, or finds that it is here, and gives it. The
// registry, or a mirror of it, is always asked, with the caller's credentials,
// so that access is checked; layers that are here are not downloaded again. Pulls that run at
// once share the layers they have in common. When Pull fails, nothing is an
// image that was not before. *PullError always, wrapping ErrInvalidName,
// ErrNotFound, ErrUnauthorized, ErrUnavailable, ErrCorrupt, ErrRefused,
// ErrDiskFull, ErrNoPlatform, ErrNotSupported (no image, or one of another
// kind) or the error of ctx.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (Image, error) {
	img, layer, err := s.pull(ctx, ref, opts)
	if err != nil {
		return Image{}, &PullError{Ref: ref, Layer: layer, Err: translate(err)}
	}
	s.cfg.Logger.Info("image pulled", "image", img.ID, "ref", ref, "bytes", img.Size)
	return img, nil
}

func (s *Store) pull(ctx context.Context, ref string, opts PullOptions) (_ Image, layer string, _ error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return Image{}, "", err
	}
	if opts.Progress != nil {
		opts.Progress(Progress{Ref: ref, Phase: PhaseResolving})
	}
	from, err := s.sources(parsed, opts.Auth)
	if err != nil {
		return Image{}, "", err
	}
	var what resolved
	err = s.retry(ctx, func() (bool, error) {
		found, known, err := s.resolveFrom(ctx, from, parsed.Identifier(), opts.Platform)
		if err == nil {
			what, from = found, known
		}
		return false, err
	})
	if err != nil {
		return Image{}, "", fmt.Errorf("resolve: %w", err)
	}
	unpin := s.pin(what.image.Layers)
	defer unpin()
	if layer, err := s.pullLayers(ctx, ref, from, what, opts.Progress); err != nil {
		return Image{}, layer, err
	}
	img := what.image
	img.Pulled = time.Now().UTC()
	for _, d := range what.digests {
		img.RepoDigests = append(img.RepoDigests, parsed.repo()+"@"+d)
	}
	if _, ok := parsed.Reference.(name.Tag); ok {
		img.RepoTags = []string{parsed.canonical()}
	}
	img, err = s.commit(img)
	if err == nil {
		s.touch(img.ID)
	}
	return img, "", err
}

// pin keeps layers from being swept until the returned call.
func (s *Store) pin(ids []string) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.pins[id]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			if s.pins[id]--; s.pins[id] == 0 {
				delete(s.pins, id)
			}
		}
	}
}

// pullLayers brings all layers, and tells the one that failed. The first
// failure ends the others.
func (s *Store) pullLayers(ctx context.Context, ref string, from []*source, what resolved, tell func(Progress)) (string, error) {
	board := newBoard(ref, what.layers, tell)
	type result struct {
		layer string
		err   error
	}
	results := make(chan result, len(what.layers))
	var waiting int
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, desc := range what.layers {
		if s.hasLayer(what.image.Layers[i]) {
			continue
		}
		f, err := s.flights.board(desc.Digest.String(), func(ctx context.Context, f *flight) error {
			return s.bring(ctx, from, desc, what.image.Layers[i], f)
		})
		if err != nil {
			cancel()
			results <- result{desc.Digest.String(), err}
			waiting++
			break
		}
		board.flights[i] = f
		waiting++
		go func() {
			var err error
			select {
			case <-f.landed:
				err = f.err
			case <-ctx.Done():
				err = ctx.Err()
			}
			s.flights.leave(f)
			if err == nil && f.diffID != what.image.Layers[i] {
				err = fmt.Errorf("%w: unpacked digest is %s, the image says %s", ErrCorrupt, f.diffID, what.image.Layers[i])
			}
			results <- result{desc.Digest.String(), err}
		}()
	}
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	var first result
	board.report()
	for waiting > 0 {
		select {
		case <-ticks.C:
		case r := <-results:
			waiting--
			if r.err != nil && first.err == nil {
				first = r
				cancel()
			}
		}
		board.report()
	}
	if first.err == nil {
		board.finish()
	}
	return first.layer, first.err
}

func (s *Store) hasLayer(diffID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.layers[diffID]
	return ok
}

// bring downloads, unpacks and keeps one layer, unless it is here by now.
func (s *Store) bring(ctx context.Context, from []*source, desc v1.Descriptor, diffID string, f *flight) error {
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.slots.Release(1)
	if s.hasLayer(diffID) {
		f.diffID = diffID
		f.done.Store(desc.Size)
		f.setPhase(PhaseDone)
		return nil
	}
	f.setPhase(PhaseDownloading)
	blob, err := s.fetch(ctx, from, desc, f)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer blob.Close()
	f.setPhase(PhaseUnpacking)
	l, err := s.unpack(ctx, blob, desc.Size)
	if err != nil {
		// A cancelled pull may come again; any other failure would be the same.
		if ctx.Err() == nil {
			_ = os.Remove(blob.Name())
		}
		return fmt.Errorf("unpack: %w", translate(err))
	}
	f.diffID = l.DiffID
	f.setPhase(PhaseDone)
	return nil
}

// unpack makes a layer of the blob: extracted in tmp, flushed, renamed.
func (s *Store) unpack(ctx context.Context, blob *os.File, size int64) (layer, error) {
	if _, err := blob.Seek(0, io.SeekStart); err != nil {
		return layer{}, err
	}
	dir, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return layer{}, err
	}
	l, err := s.extract(ctx, blob, size, filepath.Join(dir, "fs"))
	if err == nil {
		err = s.keep(dir, blob.Name(), &l)
	}
	return l, errors.Join(err, os.RemoveAll(dir))
}

// keep makes the layer in dir durable and gives it its place. If that is
// taken, by the same content compressed otherwise, dir is left where it is. The
// blob goes just before: after, a kill would leave one that no pull asks for.
func (s *Store) keep(dir, blob string, l *layer) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "layer.json"), data, 0o600); err != nil {
		return err
	}
	if err := syncFS(dir); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if err := os.Remove(blob); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if _, ok := s.layers[l.DiffID]; ok {
		return nil
	}
	if err := os.Rename(dir, s.path("layers", dirName(l.DiffID))); err != nil {
		return err
	}
	if err := syncDir(s.path("layers")); err != nil {
		return err
	}
	l.made = time.Now()
	s.layers[l.DiffID] = *l
	return nil
}

// needSpace fails when n more bytes would leave less than Config.MinFreeBytes.
func (s *Store) needSpace(n int64) error {
	fs, err := statFS(s.cfg.Root)
	if err != nil {
		return err
	}
	if fs.Available-n < s.cfg.MinFreeBytes {
		return fmt.Errorf("%w: %s: %d bytes are needed and %d must stay free (MinFreeBytes), %d are available",
			ErrDiskFull, s.cfg.Root, n, s.cfg.MinFreeBytes, fs.Available)
	}
	return nil
}
