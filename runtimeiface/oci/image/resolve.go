package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// resolved is an image as the registry describes it, verified.
type resolved struct {
	image   Image           // without Size
	layers  []v1.Descriptor // the lowest first; as many as image.Layers
	digests []string        // of the index, if any, and the manifest
}

// resolve reads index, manifest and configuration of a tag or digest.
func (r *remote) resolve(ctx context.Context, id string, p Platform) (resolved, error) {
	var out resolved
	size := int64(-1)
	for depth := 0; ; depth++ {
		data, header, err := r.manifest(ctx, id)
		if err != nil {
			return out, fmt.Errorf("manifest %s: %w", id, err)
		}
		if size >= 0 && int64(len(data)) != size {
			return out, fmt.Errorf("%w: manifest %s is of %d bytes, the index says %d", ErrCorrupt, id, len(data), size)
		}
		digest, err := digestOf(data, digestLike(id))
		if err != nil {
			return out, err
		}
		out.digests = append(out.digests, digest)
		kind, err := kindOf(data, header)
		if err != nil {
			return out, fmt.Errorf("manifest %s: %w", id, err)
		}
		if kind.IsImage() {
			return out, r.describe(ctx, data, p, &out)
		}
		if depth > 2 {
			return out, fmt.Errorf("%w: indexes within indexes", ErrRefused)
		}
		next, err := choose(data, p)
		if err != nil {
			return out, err
		}
		id, size = next.Digest.String(), next.Size
	}
}

func digestLike(id string) string {
	if isImageID(id) {
		return id
	}
	return "sha256:"
}

// kindOf tells an image from an index. What the document says of itself counts
// before the header, which some registries get wrong; a document that could be
// read as both is neither (CVE-2021-41190).
func kindOf(data []byte, header types.MediaType) (types.MediaType, error) {
	var doc struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", fmt.Errorf("%w: no JSON: %w", ErrCorrupt, err)
	}
	kind := doc.MediaType
	if kind == "" {
		kind = header
	}
	isImage, isIndex := doc.Config != nil || doc.Layers != nil, doc.Manifests != nil
	switch {
	case doc.SchemaVersion == 1, doc.FSLayers != nil, kind == types.DockerManifestSchema1, kind == types.DockerManifestSchema1Signed:
		return "", fmt.Errorf("%w: Docker schema 1, which no registry should serve any more: push the image anew", ErrNotSupported)
	case isImage && isIndex, kind.IsImage() && isIndex, kind.IsIndex() && isImage:
		return "", fmt.Errorf("%w: it is both an image and an index", ErrCorrupt)
	case kind.IsImage(), kind.IsIndex():
		return kind, nil
	case doc.MediaType == "" && isImage:
		return types.OCIManifestSchema1, nil
	case doc.MediaType == "" && isIndex:
		return types.OCIImageIndex, nil
	}
	return "", fmt.Errorf("%w: it is of type %q, neither an image nor an index", ErrNotSupported, kind)
}

// describe reads the manifest and its configuration.
func (r *remote) describe(ctx context.Context, data []byte, p Platform, out *resolved) error {
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	// The first builders said octet-stream.
	if t := manifest.Config.MediaType; !t.IsConfig() && t != "application/octet-stream" {
		return fmt.Errorf("%w: the configuration is of type %q: no container image", ErrNotSupported, manifest.Config.MediaType)
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
		return fmt.Errorf("%w: wanted is %s, the image is for %s/%s", ErrNoPlatform, p, config.OS, config.Architecture)
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
			return fmt.Errorf("%w: layer %s is of type %q", ErrNotSupported, l.Digest, l.MediaType)
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

// choose gives the manifest in an index that fits p best.
func choose(data []byte, p Platform) (v1.Descriptor, error) {
	idx, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("%w: index: %w", ErrCorrupt, err)
	}
	p = p.withDefaults()
	var best v1.Descriptor
	rank := 0
	var offered []string
	for _, m := range idx.Manifests {
		if !m.MediaType.IsImage() && !m.MediaType.IsIndex() {
			continue
		}
		if m.Platform == nil {
			// Nested indexes and old builders leave it out.
			if rank == 0 {
				best, rank = m, 1
			}
			continue
		}
		// Attestations are "unknown/unknown".
		if name := platformName(m.Platform); m.Platform.OS != "unknown" && !slices.Contains(offered, name) {
			offered = append(offered, name)
		}
		if r := p.rank(m.Platform); r > rank {
			best, rank = m, r
		}
	}
	if rank == 0 {
		return best, fmt.Errorf("%w: wanted is %s, the index offers %s", ErrNoPlatform, p, listOr(offered, "nothing"))
	}
	if !isImageID(best.Digest.String()) {
		return best, fmt.Errorf("%w: index: an entry has no digest", ErrCorrupt)
	}
	return best, nil
}

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

func platformName(p *v1.Platform) string {
	return Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}.String()
}

// String is the usual "linux/arm/v7".
func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
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

// rank is 0 when q does not fit, and higher the better it fits. The variant
// asked for comes first, then the newest that it can run; of all, when none is
// asked for, the newest (v7 over v6).
func (p Platform) rank(q *v1.Platform) int {
	if q.OS != p.OS || q.Architecture != p.Architecture {
		return 0
	}
	level := variantLevel(q.Variant)
	switch {
	case q.Variant == p.Variant:
		return 20
	case q.Variant == "":
		return 10
	case level == 0:
		return 0
	case p.Variant != "":
		if level > variantLevel(p.Variant) {
			return 0
		}
		return 10 + level
	case p.Architecture == "amd64":
		// amd64/v2 and up need processors that may not be here.
		return 2
	}
	return 2 + level
}

// variantLevel reads "v7", and gives 0 for anything else.
func variantLevel(v string) int {
	if len(v) == 2 && v[0] == 'v' && v[1] >= '1' && v[1] <= '9' {
		return int(v[1] - '0')
	}
	return 0
}
