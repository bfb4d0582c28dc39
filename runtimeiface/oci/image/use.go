package image

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// touch records that an image is used now. The time is that of an empty file
// in used/: a kill loses nothing, a loss of power the last seconds, and a mount
// does not wait for a disk.
func (s *Store) touch(imageID string) {
	if imageID == "" {
		return
	}
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	s.used[imageID] = now
	s.mu.Unlock()
	path := s.path("used", dirName(imageID))
	err := os.Chtimes(path, now, now)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.WriteFile(path, nil, 0o600); err == nil {
			err = os.Chtimes(path, now, now)
		}
	}
	if err != nil {
		s.cfg.Logger.Error(err, "record use of image", "image", imageID)
	}
}

// forgetUse is for an image that is gone.
func (s *Store) forgetUse(imageID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, back := s.images[imageID]; back {
		return
	}
	delete(s.used, imageID)
	if err := os.Remove(s.path("used", dirName(imageID))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Logger.Error(err, "forget use of image", "image", imageID)
	}
}

// loadUsed reads what touch wrote, and drops what is of no image.
func (s *Store) loadUsed() error {
	entries, err := os.ReadDir(s.path("used"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := digestName(e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		if _, ok := s.images[id]; ok {
			s.used[id] = info.ModTime()
			continue
		}
		if err := os.Remove(s.path("used", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// lastUse of an image is not later than now. Called with mu held.
func (s *Store) lastUse(img *Image, now time.Time) time.Time {
	at, ok := s.used[img.ID]
	if !ok {
		at = img.Pulled
	}
	if at.After(now) { // the clock was set back
		at = now
	}
	return at
}

// Filesystem reports on the file system that the images are on.
func (s *Store) Filesystem() (Filesystem, error) {
	f, err := statFS(s.cfg.Root)
	if err != nil {
		return f, err
	}
	f.Time = s.cfg.Clock.Now()
	f.Images = s.Usage()
	entries, err := os.ReadDir(s.path("ingest"))
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			f.Images.Bytes += info.Size()
			f.Images.Inodes++
		}
	}
	return f, err
}
