package podlifecycle

import (
	"crypto/sha256"
	"encoding/json"
	"hash"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/source"
)

// objectsKey changes when a ConfigMap or Secret that the pod refers to does.
func objectsKey(pod *corev1.Pod, set *source.Set) string {
	if set == nil {
		return ""
	}
	refs := references(pod)
	if len(refs.configMaps)+len(refs.secrets) == 0 {
		return ""
	}
	sum := sha256.New()
	for _, o := range set.ConfigMaps {
		if o.Namespace == pod.Namespace && refs.configMaps[o.Name] {
			mix(sum, "ConfigMap", o.Name, o.Data, o.BinaryData)
		}
	}
	for _, o := range set.Secrets {
		if o.Namespace == pod.Namespace && refs.secrets[o.Name] {
			mix(sum, "Secret", o.Name, o.Data)
		}
	}
	return string(sum.Sum(nil))
}

func mix(sum hash.Hash, parts ...any) {
	for _, part := range parts {
		text, _ := json.Marshal(part) // strings and bytes always encode, maps sorted
		sum.Write(text)
	}
}

type refs struct{ configMaps, secrets map[string]bool }

// references names the objects that a pod's volumes and environment ask for.
func references(pod *corev1.Pod) refs {
	r := refs{map[string]bool{}, map[string]bool{}}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			r.configMaps[v.ConfigMap.Name] = true
		case v.Secret != nil:
			r.secrets[v.Secret.SecretName] = true
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					r.configMaps[s.ConfigMap.Name] = true
				}
				if s.Secret != nil {
					r.secrets[s.Secret.Name] = true
				}
			}
		}
	}
	for _, c := range everyContainer(pod) {
		r.addEnv(&c)
	}
	return r
}

func (r refs) addEnv(c *corev1.Container) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			r.configMaps[from.ConfigMapRef.Name] = true
		}
		if from.SecretRef != nil {
			r.secrets[from.SecretRef.Name] = true
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
			r.configMaps[ref.Name] = true
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil {
			r.secrets[ref.Name] = true
		}
	}
}
