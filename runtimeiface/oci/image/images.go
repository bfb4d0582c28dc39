package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Get finds an image by tag, by digest or by ID, without asking a registry.
// ErrNotFound, ErrInvalidName.
func (s *Store) Get(ref string) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	return img.clone(), nil
}

// List gives all images, sorted by ID.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Image, 0, len(s.images))
	for _, img := range s.images {
		list = append(list, img.clone())
	}
	slices.SortFunc(list, func(a, b Image) int { return compareImages(&a, &b) })
	return list
}

// Usage is the disk space of all layers, each counted once.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var u Usage
	for _, l := range s.layers {
		u.Bytes += l.Bytes
		u.Inodes += l.Inodes
	}
	return u
}

// Remove forgets an image by ID, or one name of it by tag or digest; with the
// last tag of a repository go the digests of that repository. An image without
// names is removed with the layers that no other needs. Unknown images are no
// error. ErrInUse when a container has the image, ErrInvalidName.
func (s *Store) Remove(ref string) error {
	id, err := s.forget(ref)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	if id == "" {
		return nil
	}
	s.cfg.Logger.Info("image removed", "image", id)
	s.forgetUse(id)
	_, err = s.sweepLayers(context.Background(), func(layer) bool { return true })
	if err = errors.Join(err, s.settle()); err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	return nil
}

// forget takes a name from an image, and gives the image's ID if it is gone.
func (s *Store) forget(ref string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.find(ref)
	if err != nil {
		return "", err
	}
	left := img.clone()
	if isImageID(ref) {
		left.RepoTags, left.RepoDigests = nil, nil
	} else if err := left.drop(ref); err != nil {
		return "", err
	}
	images := maps.Clone(s.images)
	if len(left.RepoTags)+len(left.RepoDigests) > 0 {
		images[left.ID] = &left
		return "", s.saveImages(images)
	}
	for id, c := range s.containers {
		if c.Image == img.ID {
			return "", fmt.Errorf("%w by container %s", ErrInUse, id)
		}
	}
	delete(images, img.ID)
	return img.ID, s.saveFewer(images)
}

// find looks an image up by any name. Called with mu held.
func (s *Store) find(ref string) (*Image, error) {
	if isImageID(ref) {
		if img, ok := s.images[ref]; ok {
			return img, nil
		}
		return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
	}
	parsed, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	want := parsed.canonical()
	for _, img := range s.images {
		if slices.Contains(img.RepoTags, want) || slices.Contains(img.RepoDigests, want) {
			return img, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, want)
}

// commit makes img an image, or adds its names to the one that is there, and
// takes its tag from any other image. One write: a tag never names two.
func (s *Store) commit(img Image) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	images := maps.Clone(s.images)
	if old, ok := images[img.ID]; ok {
		img.RepoTags = append(img.RepoTags, old.RepoTags...)
		img.RepoDigests = append(img.RepoDigests, old.RepoDigests...)
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
	img.RepoTags = slices.Compact(img.RepoTags)
	img.RepoDigests = slices.Compact(img.RepoDigests)
	if old, ok := images[img.ID]; ok && slices.Equal(old.RepoTags, img.RepoTags) && slices.Equal(old.RepoDigests, img.RepoDigests) {
		return old.clone(), nil
	}
	for _, id := range img.Layers {
		l, ok := s.layers[id]
		if !ok {
			return Image{}, fmt.Errorf("layer %s vanished", id)
		}
		img.Size += l.Bytes
	}
	for id, other := range images {
		taken := func(tag string) bool { return slices.Contains(img.RepoTags, tag) }
		if id != img.ID && slices.ContainsFunc(other.RepoTags, taken) {
			less := other.clone()
			less.RepoTags = slices.DeleteFunc(less.RepoTags, taken)
			images[id] = &less
		}
	}
	kept := img.clone()
	images[img.ID] = &kept
	return img, s.saveImages(images)
}

// drop takes one name away.
func (i *Image) drop(ref string) error {
	parsed, err := parseRef(ref)
	if err != nil {
		return err
	}
	is := func(name string) bool { return name == parsed.canonical() }
	i.RepoTags = slices.DeleteFunc(i.RepoTags, is)
	i.RepoDigests = slices.DeleteFunc(i.RepoDigests, is)
	prefix := parsed.repo()
	tagged := slices.ContainsFunc(i.RepoTags, func(tag string) bool { return strings.HasPrefix(tag, prefix+":") })
	if !tagged && parsed.digest() == "" {
		i.RepoDigests = slices.DeleteFunc(i.RepoDigests, func(d string) bool { return strings.HasPrefix(d, prefix+"@") })
	}
	return nil
}

func (i *Image) clone() Image {
	c := *i
	c.RepoTags = slices.Clone(i.RepoTags)
	c.RepoDigests = slices.Clone(i.RepoDigests)
	c.Layers = slices.Clone(i.Layers)
	c.Config.Entrypoint = slices.Clone(i.Config.Entrypoint)
	c.Config.Cmd = slices.Clone(i.Config.Cmd)
	c.Config.Env = slices.Clone(i.Config.Env)
	c.Config.Volumes = slices.Clone(i.Config.Volumes)
	c.Config.ExposedPorts = slices.Clone(i.Config.ExposedPorts)
	c.Config.Labels = maps.Clone(i.Config.Labels)
	return c
}

func compareImages(a, b *Image) int { return cmp.Compare(a.ID, b.ID) }
