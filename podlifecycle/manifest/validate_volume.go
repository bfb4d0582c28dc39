package manifest

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}

func (v *validator) volume(volume *corev1.Volume, p *field.Path) {
	switch {
	case volume.Name == "":
		v.add(field.Required(p.Child("name"), ""))
	case v.volumes[volume.Name] != nil:
		v.add(field.Duplicate(p.Child("name"), volume.Name))
	default:
		v.messages(p.Child("name"), volume.Name, validation.IsDNS1123Label(volume.Name))
	}
	v.volumes[volume.Name] = volume
	count := 0
	source := reflect.ValueOf(volume.VolumeSource)
	for i := range source.NumField() {
		if source.Field(i).IsZero() {
			continue
		}
		if count++; count > 1 {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			v.add(field.Forbidden(p.Child(name), "may not specify more than 1 volume type"))
		}
	}
	switch {
	case volume.EmptyDir != nil:
		if limit := volume.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			v.add(field.Forbidden(p.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case volume.HostPath != nil:
		v.hostPath(volume.HostPath, p.Child("hostPath"))
	case volume.Secret != nil:
		at := p.Child("secret")
		if volume.Secret.SecretName == "" {
			v.add(field.Required(at.Child("secretName"), ""))
		}
		v.mode(volume.Secret.DefaultMode, at.Child("defaultMode"))
		v.items(volume.Secret.Items, at.Child("items"))
	case volume.ConfigMap != nil:
		at := p.Child("configMap")
		if volume.ConfigMap.Name == "" {
			v.add(field.Required(at.Child("name"), ""))
		}
		v.mode(volume.ConfigMap.DefaultMode, at.Child("defaultMode"))
		v.items(volume.ConfigMap.Items, at.Child("items"))
	case volume.DownwardAPI != nil:
		at := p.Child("downwardAPI")
		v.mode(volume.DownwardAPI.DefaultMode, at.Child("defaultMode"))
		v.downward(volume.DownwardAPI.Items, at.Child("items"))
	case volume.Projected != nil:
		v.projected(volume.Projected, p.Child("projected"))
	case volume.Image != nil:
		at := p.Child("image")
		if volume.Image.Reference == "" {
			v.add(field.Required(at.Child("reference"), ""))
		} else if strings.TrimSpace(volume.Image.Reference) != volume.Image.Reference {
			v.add(field.Invalid(at.Child("reference"), volume.Image.Reference, "must not have leading or trailing whitespace"))
		}
		oneOf(v, at.Child("pullPolicy"), volume.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	}
}

func (v *validator) hostPath(source *corev1.HostPathVolumeSource, p *field.Path) {
	if source.Path == "" {
		v.add(field.Required(p.Child("path"), ""))
	}
	v.noDotDot(source.Path, p.Child("path"))
	kinds := []corev1.HostPathType{corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
		corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev}
	if source.Type != nil && !slices.Contains(kinds, *source.Type) {
		v.add(field.NotSupported(p.Child("type"), *source.Type, kinds))
	}
}

func (v *validator) mode(mode *int32, p *field.Path) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		v.add(field.Invalid(p, *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
	}
}

func (v *validator) items(items []corev1.KeyToPath, p *field.Path) {
	for i, item := range items {
		if item.Key == "" {
			v.add(field.Required(p.Index(i).Child("key"), ""))
		}
		v.localPath(item.Path, p.Index(i).Child("path"))
		v.mode(item.Mode, p.Index(i).Child("mode"))
	}
}

// localPath wants a path for a file of a volume.
func (v *validator) localPath(path string, p *field.Path) {
	if path == "" {
		v.add(field.Required(p, ""))
		return
	}
	v.descending(path, p)
	if strings.HasPrefix(path, "..") && !strings.HasPrefix(path, "../") && path != ".." {
		v.add(field.Invalid(p, path, "must not start with '..'"))
	}
}

func (v *validator) downward(files []corev1.DownwardAPIVolumeFile, p *field.Path) {
	paths := sets.New[string]()
	for i, file := range files {
		at := p.Index(i)
		v.localPath(file.Path, at.Child("path"))
		if paths.Has(file.Path) {
			v.add(field.Duplicate(at.Child("path"), file.Path))
		}
		paths.Insert(file.Path)
		v.mode(file.Mode, at.Child("mode"))
		switch {
		case file.FieldRef != nil && file.ResourceFieldRef != nil:
			v.add(field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case file.FieldRef != nil:
			v.fieldRef(file.FieldRef, at.Child("fieldRef"), volumeFields)
		case file.ResourceFieldRef != nil:
			v.resourceRef(file.ResourceFieldRef, at.Child("resourceFieldRef"), true)
		default:
			v.add(field.Required(at, "one of fieldRef and resourceFieldRef is required"))
		}
	}
}

func (v *validator) projected(source *corev1.ProjectedVolumeSource, p *field.Path) {
	v.mode(source.DefaultMode, p.Child("defaultMode"))
	paths := map[string]string{}
	conflict := func(path string, at *field.Path) {
		if by, ok := paths[path]; ok && path != "" {
			v.add(field.Invalid(at, path, "conflicting duplicate paths, also in "+by))
		}
		paths[path] = at.String()
	}
	for i, s := range source.Sources {
		at := p.Child("sources").Index(i)
		count := 0
		if s.Secret != nil {
			count++
			v.objectName(s.Secret.Name, at.Child("secret", "name"))
			v.items(s.Secret.Items, at.Child("secret", "items"))
			for j, item := range s.Secret.Items {
				conflict(item.Path, at.Child("secret", "items").Index(j).Child("path"))
			}
		}
		if s.ConfigMap != nil {
			count++
			v.objectName(s.ConfigMap.Name, at.Child("configMap", "name"))
			v.items(s.ConfigMap.Items, at.Child("configMap", "items"))
			for j, item := range s.ConfigMap.Items {
				conflict(item.Path, at.Child("configMap", "items").Index(j).Child("path"))
			}
		}
		if s.DownwardAPI != nil {
			count++
			v.downward(s.DownwardAPI.Items, at.Child("downwardAPI", "items"))
			for j, item := range s.DownwardAPI.Items {
				conflict(item.Path, at.Child("downwardAPI", "items").Index(j).Child("path"))
			}
		}
		if s.ServiceAccountToken != nil {
			count++
		}
		if s.ClusterTrustBundle != nil {
			count++
		}
		if s.PodCertificate != nil {
			count++
		}
		switch {
		case count == 0:
			v.add(field.Required(at, "must specify a source"))
		case count > 1:
			v.add(field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
}

func (v *validator) mounts(c *corev1.Container, p *field.Path) {
	paths := sets.New[string]()
	for i, mount := range c.VolumeMounts {
		at := p.Index(i)
		switch {
		case mount.Name == "":
			v.add(field.Required(at.Child("name"), ""))
		case v.volumes[mount.Name] == nil:
			v.add(field.NotFound(at.Child("name"), mount.Name))
		}
		if mount.MountPath == "" {
			v.add(field.Required(at.Child("mountPath"), ""))
		}
		if paths.Has(mount.MountPath) {
			v.add(field.Invalid(at.Child("mountPath"), mount.MountPath, "must be unique"))
		}
		paths.Insert(mount.MountPath)
		if strings.Contains(mount.MountPath, ":") {
			v.add(field.Invalid(at.Child("mountPath"), mount.MountPath, "must not contain ':'"))
		}
		if mount.SubPath != "" {
			v.descending(mount.SubPath, at.Child("subPath"))
		}
		if mount.SubPathExpr != "" {
			v.descending(mount.SubPathExpr, at.Child("subPathExpr"))
			if mount.SubPath != "" {
				v.add(field.Invalid(at.Child("subPathExpr"), mount.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
		}
		v.mountModes(&mount, c, at)
	}
}

func (v *validator) mountModes(mount *corev1.VolumeMount, c *corev1.Container, p *field.Path) {
	if mode := mount.MountPropagation; mode != nil {
		oneOf(v, p.Child("mountPropagation"), *mode, corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional)
		if *mode == corev1.MountPropagationBidirectional && (c.SecurityContext == nil || !isTrue(c.SecurityContext.Privileged)) {
			v.add(field.Forbidden(p.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	mode := mount.RecursiveReadOnly
	if mode == nil {
		return
	}
	at := p.Child("recursiveReadOnly")
	oneOf(v, at, *mode, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled)
	if *mode == corev1.RecursiveReadOnlyDisabled {
		return
	}
	if !mount.ReadOnly {
		v.add(field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if mount.MountPropagation != nil && *mount.MountPropagation != corev1.MountPropagationNone {
		v.add(field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
}
