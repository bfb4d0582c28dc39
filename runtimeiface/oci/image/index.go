package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// index is images.json:
//
//	{"images":[{"id":"sha256:...","repoTags":["docker.io/library/web:1"],"layers":["sha256:..."], ...}]}
type index struct {
	Images []*Image `json:"images"`
}

// layer is a whole layer on disk; layer.json holds it.
type layer struct {
	DiffID string `json:"diffID"`
	Bytes  int64  `json:"bytes"`
	Inodes int64  `json:"inodes"`
	// OpaqueRoot: nothing of lower layers is seen. The kernel merges the
	// roots of layers whatever they say, so Mount has to know.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
	// Implied are directories that the archive only puts things into, "." for
	// the root, sorted. What a lower layer says of their owner and mode holds.
	Implied []string `json:"implied,omitempty"`

	made time.Time
}

// loadImages drops images whose layers are not all there. A damaged index is
// set aside: its images are gone, and are pulled again.
func (s *Store) loadImages() error {
	path := s.path("images.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var idx index
	if err := json.Unmarshal(data, &idx); err != nil {
		s.cfg.Logger.Error(err, "image index is damaged, set aside", "path", path)
		return os.Rename(path, path+".damaged")
	}
	for _, img := range idx.Images {
		if img == nil || !isImageID(img.ID) {
			continue
		}
		missing := slices.ContainsFunc(img.Layers, func(id string) bool { _, ok := s.layers[id]; return !ok })
		if missing {
			s.cfg.Logger.Info("image lacks layers, forgotten", "image", img.ID)
			continue
		}
		s.images[img.ID] = img
	}
	return nil
}

func (s *Store) loadLayers() error {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		l, err := readLayer(s.path("layers", e.Name()))
		if err == nil && dirName(l.DiffID) == e.Name() {
			s.layers[l.DiffID] = l
			continue
		}
		// Only whole layers are ever renamed to here: a damaged disk.
		s.cfg.Logger.Info("damaged layer removed", "path", e.Name())
		tmp, err := s.discard(s.path("layers", e.Name()))
		if err != nil {
			return err
		}
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
	}
	return nil
}

func readLayer(dir string) (layer, error) {
	var l layer
	path := filepath.Join(dir, "layer.json")
	info, err := os.Stat(path)
	if err != nil {
		return l, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	l.made = info.ModTime()
	return l, json.Unmarshal(data, &l)
}

// saveImages writes the index with images instead of s.images, durably, and
// makes them s.images. Called with mu held: the index is small.
func (s *Store) saveImages(images map[string]*Image) error {
	if s.closed {
		return errClosed
	}
	idx := index{Images: make([]*Image, 0, len(images))}
	for _, img := range images {
		idx.Images = append(idx.Images, img)
	}
	slices.SortFunc(idx.Images, compareImages)
	if err := s.writeDurably(s.path("images.json"), idx); err != nil {
		return fmt.Errorf("write image index: %w", translate(err))
	}
	s.images, s.unsaved = images, false
	return nil
}

// saveFewer is saveImages for images that go. A disk without room for the index
// does not keep them: their layers go first, which makes room, and then settle
// writes it. An index that is killed in between lists images that lack layers,
// and the next Open forgets those. Called with mu held.
func (s *Store) saveFewer(images map[string]*Image) error {
	err := s.saveImages(images)
	if errors.Is(err, ErrDiskFull) {
		s.images, s.unsaved = images, true
		return nil
	}
	return err
}

// settle writes what saveFewer could not.
func (s *Store) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.unsaved {
		return nil
	}
	return s.saveImages(s.images)
}

// writeDurably replaces path by v as JSON: wholly or not at all, also when
// power fails.
func (s *Store) writeDurably(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.path("tmp"), "json-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
