package podlifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/credential"
	"github.com/nodekit/nodekit/podlifecycle/journal"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/dockerconfig"
)

// Keys of the journal: who pulled an image, by its ID, and which references are
// being pulled with a pod's secret.
const (
	keyPulled  = "pulled/"
	keyPulling = "pulling/"

	// maxOpeners bounds what is remembered of one repository of an image.
	maxOpeners = 100
)

// pulledImage tells who may use an image that this agent pulled. One that it did
// not pull everybody may. Source: Kubernetes v1.37.0 pkg/kubelet/images/pullmanager,
// with the policy NeverVerifyPreloadedImages.
type pulledImage struct {
	// Of is by repository.
	Of      map[string]access `json:"of"`
	Updated time.Time         `json:"updated"`
}

// access is what opened a repository.
type access struct {
	// All: it was nothing of a pod's own.
	All     bool     `json:"all,omitempty"`
	Openers []opener `json:"openers,omitempty"`
}

// opener is a Secret, and what it held.
type opener struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid,omitempty"`
	Hash      string    `json:"hash"`
}

// rights remembers in the journal with whose credentials images were pulled.
type rights struct {
	mu      sync.Mutex
	pulling map[string]int // by reference
}

// key is a credential that fits an image; a nil auth is to come as nobody.
type key struct {
	auth *runtimeiface.Auth
	// secret of the pod that holds it; without one it is the node's and opens to all,
	// unless it is the caller's choice for this pod.
	secret *corev1.Secret
	chosen bool
}

func (k key) opener() opener {
	text, _ := json.Marshal(k.auth) // strings always can be
	sum := sha256.Sum256(text)
	return opener{k.secret.Namespace, k.secret.Name, k.secret.UID, hex.EncodeToString(sum[:])}
}

// ownKeys are those of secrets that fit an image, the best first.
func ownKeys(secrets []*corev1.Secret, ref string) ([]key, error) {
	auths, err := credential.FromSecrets(secrets, ref)
	var keys []key
	for _, auth := range auths {
		for _, secret := range secrets {
			has, _ := credential.FromSecrets([]*corev1.Secret{secret}, ref)
			if slices.Contains(has, auth) {
				keys = append(keys, key{auth: &auth, secret: secret})
				break
			}
		}
	}
	return keys, err
}

// begin notes that ref is about to be pulled with a pod's secret: should the agent
// be killed before the end is noted, nobody takes the image for one that was there.
func (r *rights) begin(j *journal.Journal, ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulling[ref]++
	return j.Put(keyPulling+ref, []byte("1"))
}

// end notes what came of a pull: image ID, "" if it failed.
func (r *rights) end(j *journal.Journal, ref, id string, with key, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id != "" {
		if err := record(j, ref, id, with, now); err != nil {
			return err // what was noted at the begin stays
		}
	}
	if with.secret == nil {
		return nil
	}
	if r.pulling[ref]--; r.pulling[ref] > 0 {
		return nil
	}
	delete(r.pulling, ref)
	return j.Delete(keyPulling + ref)
}

func record(j *journal.Journal, ref, id string, with key, now time.Time) error {
	image, _ := pulled(j, id)
	if image.Of == nil {
		image.Of = map[string]access{}
	}
	repo := repository(ref)
	of := image.Of[repo]
	switch {
	case of.All, with.chosen: // whom else he would let in nobody knows
	case with.secret == nil:
		of = access{All: true}
	default:
		one := with.opener()
		of.Openers = append(slices.DeleteFunc(of.Openers, one.same), one)
		of.Openers = of.Openers[max(0, len(of.Openers)-maxOpeners):]
	}
	image.Of[repo], image.Updated = of, now
	return putJSON(j, keyPulled+id, image)
}

// same tells of the Secret itself, whatever it holds.
func (o opener) same(other opener) bool {
	return o.Namespace == other.Namespace && o.Name == other.Name && o.UID == other.UID
}

// pulled gives what is known of an image; one that cannot be read opens to nobody.
func pulled(j *journal.Journal, id string) (pulledImage, bool) {
	var image pulledImage
	text, known := j.Get(keyPulled + id)
	if known && json.Unmarshal(text, &image) != nil {
		image = pulledImage{}
	}
	return image, known
}

// mayUse tells whether who has keys may use an image that is on the node under ref,
// without a word of the registry.
func (r *rights) mayUse(j *journal.Journal, ref, id string, keys []key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	image, known := pulled(j, id)
	if !known {
		_, coming := j.Get(keyPulling + ref)
		return !coming
	}
	of := image.Of[repository(ref)]
	if of.All {
		return true
	}
	for _, k := range keys {
		mine := k.opener()
		if slices.ContainsFunc(of.Openers, func(o opener) bool { return o.Hash == mine.Hash || o.same(mine) }) {
			return true
		}
	}
	return false
}

// prune forgets the images that are gone, unless they were pulled after the list was
// begun.
func (r *rights) prune(j *journal.Journal, images []runtimeiface.Image, begun time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := map[string]bool{}
	for _, image := range images {
		there[image.ID] = true
	}
	for _, name := range j.Keys(keyPulled) {
		id := strings.TrimPrefix(name, keyPulled)
		if image, _ := pulled(j, id); there[id] || !image.Updated.Before(begun) {
			continue
		}
		if err := j.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

func repository(ref string) string {
	host, repo := dockerconfig.Split(ref)
	return host + "/" + repo
}
