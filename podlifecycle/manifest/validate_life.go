package manifest

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) restart(c *corev1.Container, p *field.Path) {
	if c.RestartPolicy != nil {
		oneOf(v, p.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever)
	}
	at := p.Child("restartPolicyRules")
	if len(c.RestartPolicyRules) > 0 && c.RestartPolicy == nil {
		v.add(field.Required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	if len(c.RestartPolicyRules) > 20 {
		v.add(field.TooMany(at, len(c.RestartPolicyRules), 20))
	}
	for i, rule := range c.RestartPolicyRules {
		oneOf(v, at.Index(i).Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if rule.ExitCodes == nil {
			v.add(field.Required(at.Index(i).Child("exitCodes"), "must be specified"))
			continue
		}
		oneOf(v, at.Index(i).Child("exitCodes", "operator"), rule.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if len(rule.ExitCodes.Values) > 255 {
			v.add(field.TooMany(at.Index(i).Child("exitCodes", "values"), len(rule.ExitCodes.Values), 255))
		}
	}
}

// resizePolicy of a container. One that runs once and to its end cannot be
// restarted for a resize.
func (v *validator) resizePolicy(c *corev1.Container, p *field.Path, init bool) {
	seen := map[corev1.ResourceName]bool{}
	sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	for i, policy := range c.ResizePolicy {
		at := p.Index(i)
		if seen[policy.ResourceName] {
			v.add(field.Duplicate(at, policy.ResourceName))
		}
		seen[policy.ResourceName] = true
		oneOf(v, at.Child("resourceName"), policy.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(v, at.Child("restartPolicy"), policy.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if policy.RestartPolicy != corev1.RestartContainer {
			continue
		}
		switch {
		case v.spec.RestartPolicy == corev1.RestartPolicyNever:
			v.add(field.Invalid(at.Child("restartPolicy"), policy.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		case init && !sidecar:
			v.add(field.Invalid(at.Child("restartPolicy"), policy.RestartPolicy, "must be 'NotRequired' for init containers without restartPolicy=Always"))
		}
	}
}

// userNamespace tells whether the pod has one of its own.
func userNamespace(spec *corev1.PodSpec) bool { return spec.HostUsers != nil && !*spec.HostUsers }

// users refuses what a user namespace of the pod's own excludes.
func (v *validator) users(p *field.Path) {
	if !userNamespace(v.spec) {
		return
	}
	for _, host := range []struct {
		name string
		set  bool
	}{{"hostNetwork", v.spec.HostNetwork}, {"hostPID", v.spec.HostPID}, {"hostIPC", v.spec.HostIPC}} {
		if host.set {
			v.add(field.Forbidden(p.Child(host.name), "when `hostUsers` is false"))
		}
	}
}

// fileRef is a variable from a file that another container has left.
func (v *validator) fileRef(ref *corev1.FileKeySelector, p *field.Path) {
	if ref.Key == "" {
		v.add(field.Required(p.Child("key"), ""))
	} else {
		v.messages(p.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
	}
	switch volume := v.volumes[ref.VolumeName]; {
	case ref.VolumeName == "":
		v.add(field.Required(p.Child("volumeName"), ""))
	case volume == nil:
		v.add(field.NotFound(p.Child("volumeName"), ref.VolumeName))
	case volume.EmptyDir == nil:
		v.add(field.Invalid(p.Child("volumeName"), ref.VolumeName, "referenced volume must be of type emptyDir"))
	}
	switch {
	case ref.Path == "":
		v.add(field.Required(p.Child("path"), ""))
	case path.IsAbs(ref.Path) || strings.Contains("/"+ref.Path+"/", "/../"):
		v.add(field.Invalid(p.Child("path"), ref.Path, "must be relative and must not contain '..'"))
	}
}

// ephemeral containers; others holds the names of all others.
func (v *validator) ephemeral(p *field.Path, others sets.Set[string], ports map[string]string) {
	targets := others.Clone()
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], p.Index(i)
		c := corev1.Container(e.EphemeralContainerCommon)
		v.container(&c, at, others, false, ports)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			v.add(field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		for j, m := range e.VolumeMounts {
			for name, value := range map[string]string{"subPath": m.SubPath, "subPathExpr": m.SubPathExpr} {
				if value != "" {
					v.add(field.Forbidden(at.Child("volumeMounts").Index(j).Child(name), "cannot be set for an Ephemeral Container"))
				}
			}
		}
	}
}
