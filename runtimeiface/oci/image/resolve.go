package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// resolved is an image as the registry describes it, verified.
type resolved struct {
	image   Image           // without Size
	layers  []v1.Descriptor // the lowest first; as many as image.Layers
	digests []string        // of the index, if any, and the manifest
}

// resolve reads index, manifest and configuration.
func (r *remote) resolve(ctx context.Context, p Platform) (resolved, error) {
	var out resolved
	id := r.ref.Identifier()
	for depth := 0; ; depth++ {
		data, mediaType, err := r.manifest(ctx, id)
		if err != nil {
			return out, fmt.Errorf("manifest %s: %w", id, err)
		}
		digest, err := digestOf(data, digestLike(id))
		if err != nil {
			return out, err
		}
		out.digests = append(out.digests, digest)
		kind := kindOf(data, mediaType)
		if kind.IsImage() {
			return out, r.describe(ctx, data, p, &out)
		}
		if !kind.IsIndex() || depth > 2 {
			return out, fmt.Errorf("%w: %s is no image but %q", ErrCorrupt, id, kind)
		}
		if id, err = choose(data, p); err != nil {
			return out, err
		}
	}
}

func digestLike(id string) string {
	if isImageID(id) {
		return id
	}
	return "sha256:"
}

// kindOf prefers what the document says of itself over the header.
func kindOf(data []byte, header types.MediaType) types.MediaType {
	var doc struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &doc); err == nil && doc.MediaType != "" {
		return doc.MediaType
	}
	return header
}

// describe reads the manifest and its configuration.
func (r *remote) describe(ctx context.Context, data []byte, p Platform, out *resolved) error {
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	raw, err := r.config(ctx, manifest.Config)
	if err != nil {
		return fmt.Errorf("configuration %s: %w", manifest.Config.Digest, err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%w: configuration: %w", ErrCorrupt, err)
	}
	if err := checkLayers(manifest.Layers, config.RootFS.DiffIDs); err != nil {
		return err
	}
	p = p.withDefaults()
	if config.OS != "" && config.OS != p.OS || config.Architecture != "" && config.Architecture != p.Architecture {
		return fmt.Errorf("%w: it is for %s/%s, wanted is %s/%s",
			ErrNoPlatform, config.OS, config.Architecture, p.OS, p.Architecture)
	}
	out.layers = manifest.Layers
	out.image = imageOf(manifest.Config.Digest.String(), config)
	return nil
}

func checkLayers(layers []v1.Descriptor, diffIDs []v1.Hash) error {
	if len(layers) != len(diffIDs) {
		return fmt.Errorf("%w: %d layers but %d diff IDs", ErrCorrupt, len(layers), len(diffIDs))
	}
	if len(layers) > maxLayers {
		return fmt.Errorf("%w: %d layers, more than %d", ErrRefused, len(layers), maxLayers)
	}
	for _, l := range layers {
		if !l.MediaType.IsLayer() {
			return fmt.Errorf("%w: layer %s is of type %q", ErrCorrupt, l.Digest, l.MediaType)
		}
		if l.Size < 0 {
			return fmt.Errorf("%w: layer %s is of size %d", ErrCorrupt, l.Digest, l.Size)
		}
	}
	return nil
}

func imageOf(id string, c *v1.ConfigFile) Image {
	img := Image{
		ID: id, OS: c.OS, Architecture: c.Architecture, Created: c.Created.Time,
		Config: ImageConfig{
			Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
			WorkingDir: c.Config.WorkingDir, User: c.Config.User,
			StopSignal: c.Config.StopSignal, Labels: c.Config.Labels,
			Volumes:      slices.Sorted(maps.Keys(c.Config.Volumes)),
			ExposedPorts: slices.Sorted(maps.Keys(c.Config.ExposedPorts)),
		},
	}
	for _, d := range c.RootFS.DiffIDs {
		img.Layers = append(img.Layers, d.String())
	}
	return img
}

// choose gives the digest of the manifest in an index that fits p best.
func choose(data []byte, p Platform) (string, error) {
	idx, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("%w: index: %w", ErrCorrupt, err)
	}
	p = p.withDefaults()
	best, rank := "", 0
	var offered []string
	for _, m := range idx.Manifests {
		if !m.MediaType.IsImage() && !m.MediaType.IsIndex() {
			continue
		}
		if m.Platform == nil {
			// Nested indexes and old builders leave it out.
			if rank == 0 {
				best, rank = m.Digest.String(), 1
			}
			continue
		}
		offered = append(offered, m.Platform.String())
		if r := p.rank(m.Platform); r > rank {
			best, rank = m.Digest.String(), r
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: wanted is %s/%s, there are %v", ErrNoPlatform, p.OS, p.Architecture, offered)
	}
	return best, nil
}

func (p Platform) withDefaults() Platform {
	if p.OS == "" {
		p.OS = "linux"
	}
	if p.Architecture == "" {
		p.Architecture = runtime.GOARCH
	}
	return p
}

// rank is 0 when q does not fit, and higher the better it fits. Newer variants
// (v7 over v6) and the one asked for come first.
func (p Platform) rank(q *v1.Platform) int {
	if q.OS != p.OS || q.Architecture != p.Architecture {
		return 0
	}
	switch {
	case q.Variant == p.Variant:
		return 20
	case q.Variant == "":
		return 10
	case p.Variant != "" || len(q.Variant) != 2:
		return 0
	case p.Architecture == "amd64":
		// amd64/v2 and up need processors that may not be here.
		return 2
	}
	return 2 + int(q.Variant[1]-'0')
}
