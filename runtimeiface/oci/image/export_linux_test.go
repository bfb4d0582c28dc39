package image

import (
	"context"
	"io"
)

// Extract unpacks one layer with small limits.
func Extract(ctx context.Context, blob io.Reader, dir string) error {
	s := &Store{cfg: Config{Root: dir, MaxLayerBytes: 1 << 20, MaxEntries: 1000, MaxExpansion: 100}}
	_, err := s.extract(ctx, blob, 1<<20, dir)
	return err
}
