package manifest

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate tells what the API server would refuse in a defaulted pod, by path
// (spec.containers[0].ports[1].containerPort) and sorted by it.
// Source: Kubernetes v1.37.0 pkg/apis/core/validation.
func Validate(pod *corev1.Pod) field.ErrorList {
	v := &validator{spec: &pod.Spec, volumes: map[string]*corev1.Volume{}}
	v.errs = apivalidation.ValidateObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if uid := string(pod.UID); strings.ContainsAny(uid, "/\x00") || strings.HasPrefix(uid, ".") || len(uid) > 128 {
		// It names directories and cgroups.
		v.add(field.Invalid(field.NewPath("metadata", "uid"), uid, "must not contain '/', begin with '.' or be longer than 128 characters"))
	}
	v.podSpec(field.NewPath("spec"))
	slices.SortStableFunc(v.errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return v.errs
}

type validator struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.Volume
	errs    field.ErrorList
}

func (v *validator) add(errs ...*field.Error) { v.errs = append(v.errs, errs...) }

// messages turns the texts of package validation into errors of one field.
func (v *validator) messages(p *field.Path, value any, messages []string) {
	for _, message := range messages {
		v.add(field.Invalid(p, value, message))
	}
}

// oneOf wants value among allowed.
func oneOf[T ~string](v *validator, p *field.Path, value T, allowed ...T) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	if value == "" {
		v.add(field.Required(p, ""))
		return
	}
	v.add(field.NotSupported(p, value, allowed))
}

func (v *validator) notNegative(p *field.Path, value int64) {
	if value < 0 {
		v.add(field.Invalid(p, value, apivalidation.IsNegativeErrorMsg))
	}
}

func (v *validator) podSpec(p *field.Path) {
	spec := v.spec
	for i := range spec.Volumes {
		v.volume(&spec.Volumes[i], p.Child("volumes").Index(i))
	}
	if len(spec.Containers) == 0 {
		v.add(field.Required(p.Child("containers"), ""))
	}
	names := sets.New[string]()
	ports := map[string]string{}
	for i := range spec.InitContainers {
		v.container(&spec.InitContainers[i], p.Child("initContainers").Index(i), names, true, ports)
	}
	for i := range spec.Containers {
		v.container(&spec.Containers[i], p.Child("containers").Index(i), names, false, ports)
	}
	v.ephemeral(p.Child("ephemeralContainers"), names, ports)
	oneOf(v, p.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	if spec.TerminationGracePeriodSeconds != nil {
		v.notNegative(p.Child("terminationGracePeriodSeconds"), *spec.TerminationGracePeriodSeconds)
	}
	if s := spec.ActiveDeadlineSeconds; s != nil && (*s < 1 || *s > 1<<31-1) {
		v.add(field.Invalid(p.Child("activeDeadlineSeconds"), *s, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	v.users(p)
	v.dns(p)
	v.node(p)
	v.podSecurity(p.Child("securityContext"))
	if spec.Hostname != "" {
		v.messages(p.Child("hostname"), spec.Hostname, validation.IsDNS1123Label(spec.Hostname))
	}
	if spec.Subdomain != "" {
		v.messages(p.Child("subdomain"), spec.Subdomain, validation.IsDNS1123Label(spec.Subdomain))
	}
	if name := spec.HostnameOverride; name != nil {
		v.messages(p.Child("hostnameOverride"), *name, validation.IsDNS1123Subdomain(*name))
		if len(*name) > 64 {
			v.add(field.TooLong(p.Child("hostnameOverride"), *name, 64))
		}
		if spec.HostNetwork {
			v.add(field.Forbidden(p.Child("hostnameOverride"), "may not be set together with hostNetwork"))
		}
		if isTrue(spec.SetHostnameAsFQDN) {
			v.add(field.Forbidden(p.Child("hostnameOverride"), "may not be set together with setHostnameAsFQDN"))
		}
	}
	for i, alias := range spec.HostAliases {
		at := p.Child("hostAliases").Index(i)
		v.errs = append(v.errs, validation.IsValidIPForLegacyField(at.Child("ip"), alias.IP, false, nil)...)
		for j, name := range alias.Hostnames {
			v.messages(at.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))
		}
	}
	for i, ref := range spec.ImagePullSecrets {
		if ref.Name == "" {
			v.add(field.Required(p.Child("imagePullSecrets").Index(i).Child("name"), ""))
		}
	}
	if spec.HostPID && isTrue(spec.ShareProcessNamespace) {
		v.add(field.Invalid(p.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if spec.ServiceAccountName != "" {
		v.messages(p.Child("serviceAccountName"), spec.ServiceAccountName, validation.IsDNS1123Subdomain(spec.ServiceAccountName))
	}
	if spec.NodeName != "" {
		v.messages(p.Child("nodeName"), spec.NodeName, validation.IsDNS1123Subdomain(spec.NodeName))
	}
	for i, gate := range spec.ReadinessGates {
		v.messages(p.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType),
			validation.IsQualifiedName(string(gate.ConditionType)))
	}
	if spec.Resources != nil {
		v.resources(spec.Resources, p.Child("resources"), nil)
		v.podResources(p.Child("resources"))
	}
}

// podResources wants the pod's own limits to hold its containers' requests.
func (v *validator) podResources(p *field.Path) {
	for name, limit := range v.spec.Resources.Limits {
		for c := range containers(v.spec) {
			if own, ok := c.Resources.Limits[name]; ok && own.Cmp(limit) > 0 {
				v.add(field.Invalid(p.Child("limits").Key(string(name)), limit.String(),
					fmt.Sprintf("must be greater than or equal to the limit of container %s, %s", c.Name, own.String())))
			}
		}
	}
}

func (v *validator) dns(p *field.Path) {
	oneOf(v, p.Child("dnsPolicy"), v.spec.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	config := v.spec.DNSConfig
	at := p.Child("dnsConfig")
	if config == nil || len(config.Nameservers) == 0 {
		if v.spec.DNSPolicy == corev1.DNSNone {
			v.add(field.Required(at.Child("nameservers"), `must provide at least one DNS nameserver when "dnsPolicy" is None`))
		}
	}
	if config == nil {
		return
	}
	if n := len(config.Nameservers); n > 3 {
		v.add(field.Invalid(at.Child("nameservers"), config.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, ip := range config.Nameservers {
		v.errs = append(v.errs, validation.IsValidIPForLegacyField(at.Child("nameservers").Index(i), ip, false, nil)...)
	}
	if n := len(config.Searches); n > 32 {
		v.add(field.Invalid(at.Child("searches"), config.Searches, "must not have more than 32 search paths"))
	}
	for i, search := range config.Searches {
		if search != "." {
			v.messages(at.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(search, ".")))
		}
	}
	if len(strings.Join(config.Searches, " ")) > 2048 {
		v.add(field.Invalid(at.Child("searches"), config.Searches, "must not have more than 2048 characters (including spaces) in the search list"))
	}
	for i, option := range config.Options {
		if option.Name == "" {
			v.add(field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
}

var sysctlName = regexp.MustCompile(`^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([\./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$`)

func (v *validator) podSecurity(p *field.Path) {
	context := v.spec.SecurityContext
	if context == nil {
		return
	}
	v.ids(p, context.RunAsUser, context.RunAsGroup)
	if context.FSGroup != nil {
		v.messages(p.Child("fsGroup"), *context.FSGroup, validation.IsValidGroupID(*context.FSGroup))
	}
	for i, group := range context.SupplementalGroups {
		v.messages(p.Child("supplementalGroups").Index(i), group, validation.IsValidGroupID(group))
	}
	if context.FSGroupChangePolicy != nil {
		oneOf(v, p.Child("fsGroupChangePolicy"), *context.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	if context.SupplementalGroupsPolicy != nil {
		oneOf(v, p.Child("supplementalGroupsPolicy"), *context.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	v.seccomp(context.SeccompProfile, p.Child("seccompProfile"))
	v.appArmor(context.AppArmorProfile, p.Child("appArmorProfile"))
	names := sets.New[string]()
	for i, sysctl := range context.Sysctls {
		at := p.Child("sysctls").Index(i).Child("name")
		switch {
		case sysctl.Name == "":
			v.add(field.Required(at, ""))
		case len(sysctl.Name) > 253 || !sysctlName.MatchString(sysctl.Name):
			v.add(field.Invalid(at, sysctl.Name, validation.RegexError("must be a sysctl name", sysctlName.String())))
		case names.Has(sysctl.Name):
			v.add(field.Duplicate(at, sysctl.Name))
		case v.spec.HostNetwork && strings.HasPrefix(sysctl.Name, "net."):
			v.add(field.Invalid(at, sysctl.Name, "may not be specified when 'hostNetwork' is true"))
		case v.spec.HostIPC && (strings.HasPrefix(sysctl.Name, "kernel.shm") || strings.HasPrefix(sysctl.Name, "kernel.msg") || sysctl.Name == "kernel.sem" || strings.HasPrefix(sysctl.Name, "fs.mqueue.")):
			v.add(field.Invalid(at, sysctl.Name, "may not be specified when 'hostIPC' is true"))
		}
		names.Insert(sysctl.Name)
	}
}

func (v *validator) ids(p *field.Path, user, group *int64) {
	if user != nil {
		v.messages(p.Child("runAsUser"), *user, validation.IsValidUserID(*user))
	}
	if group != nil {
		v.messages(p.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))
	}
}

func (v *validator) seccomp(profile *corev1.SeccompProfile, p *field.Path) {
	if profile == nil {
		return
	}
	oneOf(v, p.Child("type"), profile.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	switch {
	case profile.Type == corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			v.add(field.Required(p.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
		} else {
			v.descending(*profile.LocalhostProfile, p.Child("localhostProfile"))
		}
	case profile.LocalhostProfile != nil:
		v.add(field.Invalid(p.Child("localhostProfile"), *profile.LocalhostProfile, "can only be set when seccomp type is Localhost"))
	}
}

func (v *validator) appArmor(profile *corev1.AppArmorProfile, p *field.Path) {
	if profile == nil {
		return
	}
	oneOf(v, p.Child("type"), profile.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	at := p.Child("localhostProfile")
	switch name := profile.LocalhostProfile; {
	case profile.Type != corev1.AppArmorProfileTypeLocalhost:
		if name != nil {
			v.add(field.Invalid(at, *name, "can only be set when AppArmor type is Localhost"))
		}
	case name == nil || strings.TrimSpace(*name) == "":
		v.add(field.Required(at, "must be set when AppArmor type is Localhost"))
	case strings.TrimSpace(*name) != *name:
		v.add(field.Invalid(at, *name, "must not be padded with whitespace"))
	case len(*name) > maxAppArmorProfile:
		v.add(field.TooLong(at, *name, maxAppArmorProfile))
	}
}

// maxAppArmorProfile is the length of a profile's name in bytes. Source:
// Kubernetes v1.37.0 pkg/apis/core/validation (maxLocalhostProfileLength is PATH_MAX).
const maxAppArmorProfile = 4095

// descending wants a relative path that does not climb.
func (v *validator) descending(value string, p *field.Path) {
	if path.IsAbs(value) {
		v.add(field.Invalid(p, value, "must be a relative path"))
	}
	v.noDotDot(value, p)
}

func (v *validator) noDotDot(value string, p *field.Path) {
	for _, part := range strings.Split(value, "/") {
		if part == ".." {
			v.add(field.Invalid(p, value, "must not contain '..'"))
			return
		}
	}
}

func isTrue(b *bool) bool { return b != nil && *b }
