package containerdtest

import (
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushPause makes the image of sandboxes from one that runs for ever: the same
// program under a digest of its own, in the same registry. It gives the
// reference.
func PushPause(image string) (string, error) {
	from, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	img, err := remote.Image(from)
	if err != nil {
		return "", err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	config := *cf.Config.DeepCopy()
	config.Labels = map[string]string{"role": "pause"}
	if img, err = mutate.Config(img, config); err != nil {
		return "", err
	}
	to := from.Context().Registry.Repo("test", "pause").Tag("1")
	return to.Name(), remote.Write(to, img)
}
