package volume_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVolume(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "podlifecycle/volume")
}

type objects struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
}

func (o objects) ConfigMap(namespace, name string) *corev1.ConfigMap {
	if data, ok := o.configMaps[namespace+"/"+name]; ok {
		return &corev1.ConfigMap{Data: data, BinaryData: map[string][]byte{}}
	}
	return nil
}

func (o objects) Secret(namespace, name string) *corev1.Secret {
	values, ok := o.secrets[namespace+"/"+name]
	if !ok {
		return nil
	}
	data := map[string][]byte{}
	for key, value := range values {
		data[key] = []byte(value)
	}
	return &corev1.Secret{Data: data}
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	container := corev1.Container{Name: "app"}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{container}},
	}
}

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

func configMap(name, object string, items ...corev1.KeyToPath) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Items: items}}}
}

func hostPathOf(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func to[T any](v T) *T { return &v }
