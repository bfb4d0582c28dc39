package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// uidVersion is part of each UID's hash. To change what is hashed restarts
// every pod at the next upgrade: raise it only for a reason worth that.
const uidVersion = "nodekit.dev/uid/1"

// origin is what a source puts its mark on objects with.
type origin struct {
	kind string // for AnnotationSource
	node string
	// plugins are names of volume sources that work beside those of package volume.
	plugins []string
}

// own makes pod this node's: identity, annotations, name, defaults. place tells
// where it was found, for AnnotationFile; key is that beyond doubt, for the UID.
func (o origin) own(place, key string, pod *corev1.Pod) {
	// Before defaulting, so that a new default of a later version is not an edit.
	if pod.UID == "" {
		pod.UID = o.uid(key, pod)
	}
	hash := sum(canonical(pod.ObjectMeta), canonical(pod.Spec))
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[AnnotationSource] = o.kind
	pod.Annotations[AnnotationHash] = hex.EncodeToString(hash[:16])
	pod.Annotations[AnnotationFile] = place
	if o.node != "" {
		if pod.Name != "" {
			pod.Name += "-" + o.node
		}
		pod.Spec.NodeName = o.node
	}
	manifest.Default(pod)
}

// uid hashes what makes the pod another one when it is edited.
func (o origin) uid(key string, pod *corev1.Pod) types.UID {
	spec := pod.Spec.DeepCopy()
	// What the API server lets an update change.
	// Source: Kubernetes v1.37.0 pkg/apis/core/validation.ValidatePodUpdate.
	for i := range spec.Containers {
		spec.Containers[i].Image = ""
	}
	for i := range spec.InitContainers {
		spec.InitContainers[i].Image = ""
	}
	spec.EphemeralContainers = nil
	spec.ActiveDeadlineSeconds = nil
	spec.Tolerations = nil
	h := sum([]byte(uidVersion), []byte(o.node), []byte(key), []byte(pod.Namespace+"/"+pod.Name), canonical(spec))
	h[6] = h[6]&0x0f | 0x80 // a UUID of version 8, by RFC 9562
	h[8] = h[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// accept defaults and checks objects, and makes pods this node's.
func (o origin) accept(place, key string, in manifest.Objects) (out manifest.Objects, problems []manifest.Problem) {
	ok := func(kind string, meta metav1.Object, errs ...*field.Error) bool {
		for _, err := range errs {
			problems = append(problems, manifest.Problem{File: place, Kind: kind, Namespace: meta.GetNamespace(),
				Name: meta.GetName(), Field: err.Field, Err: err})
		}
		return len(errs) == 0
	}
	for _, pod := range in.Pods {
		o.own(place, key, pod)
		if ok("Pod", pod, append(manifest.Validate(pod), manifest.Unsupported(pod, o.plugins...)...)...) {
			out.Pods = append(out.Pods, pod)
		}
	}
	for _, configMap := range in.ConfigMaps {
		if ok("ConfigMap", configMap, manifest.ValidateConfigMap(configMap)...) {
			out.ConfigMaps = append(out.ConfigMaps, configMap)
		}
	}
	for _, secret := range in.Secrets {
		manifest.DefaultSecret(secret)
		if ok("Secret", secret, manifest.ValidateSecret(secret)...) {
			out.Secrets = append(out.Secrets, secret)
		}
	}
	for _, service := range in.Services {
		manifest.DefaultService(service)
		if ok("Service", service, manifest.ValidateService(service)...) {
			out.Services = append(out.Services, service)
		}
	}
	out.EndpointSlices = in.EndpointSlices
	return out, problems
}

// sum hashes parts with their lengths, so that none can flow into the next.
func sum(parts ...[]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:", len(part))
		_, _ = h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// canonical gives JSON with sorted keys and without empty values, which a later
// version of the types may write or leave out.
func canonical(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // these types came from JSON
	}
	var tree any
	in := json.NewDecoder(bytes.NewReader(data))
	in.UseNumber() // a float64 would round
	if err := in.Decode(&tree); err != nil {
		panic(err) // Marshal wrote it
	}
	data, err = json.Marshal(prune(tree))
	if err != nil {
		panic(err) // Unmarshal made it
	}
	return data
}

// prune takes null, {} and [] away, inside out; nil if nothing is left.
func prune(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			if tree[key] = prune(value); tree[key] == nil {
				delete(tree, key)
			}
		}
		if len(tree) == 0 {
			return nil
		}
	case []any:
		for i := range tree {
			// Places count in a list.
			tree[i] = prune(tree[i])
		}
		if len(tree) == 0 {
			return nil
		}
	}
	return tree
}
