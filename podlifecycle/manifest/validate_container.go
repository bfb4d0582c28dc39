package manifest

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// container checks one; names are those of all before it, ports the host ports
// taken so far and by whom.
func (v *validator) container(c *corev1.Container, p *field.Path, names sets.Set[string], init bool, ports map[string]string) {
	switch {
	case c.Name == "":
		v.add(field.Required(p.Child("name"), ""))
	case names.Has(c.Name):
		v.add(field.Duplicate(p.Child("name"), c.Name))
	default:
		v.messages(p.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))
	}
	names.Insert(c.Name)
	switch {
	case c.Image == "":
		v.add(field.Required(p.Child("image"), ""))
	case strings.TrimSpace(c.Image) != c.Image:
		v.add(field.Invalid(p.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	oneOf(v, p.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	oneOf(v, p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	v.ports(c.Ports, p.Child("ports"), ports)
	v.env(c, p)
	v.mounts(c, p.Child("volumeMounts"))
	v.resources(&c.Resources, p.Child("resources"), v.spec.ResourceClaims)
	v.restart(c, p)
	v.resizePolicy(c, p.Child("resizePolicy"), init)
	v.containerSecurity(c.SecurityContext, p.Child("securityContext"))

	sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	if init && !sidecar {
		for name, set := range map[string]bool{"livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil,
			"startupProbe": c.StartupProbe != nil, "lifecycle": c.Lifecycle != nil} {
			if set {
				v.add(field.Forbidden(p.Child(name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		return
	}
	v.probe(c.LivenessProbe, p.Child("livenessProbe"), c, true)
	v.probe(c.StartupProbe, p.Child("startupProbe"), c, true)
	v.probe(c.ReadinessProbe, p.Child("readinessProbe"), c, false)
	if c.Lifecycle != nil {
		v.hook(c.Lifecycle.PostStart, p.Child("lifecycle", "postStart"))
		v.hook(c.Lifecycle.PreStop, p.Child("lifecycle", "preStop"))
		if signal := c.Lifecycle.StopSignal; signal != nil && !strings.HasPrefix(string(*signal), "SIG") {
			v.add(field.Invalid(p.Child("lifecycle", "stopSignal"), *signal, "must be the name of a signal, such as SIGTERM"))
		}
	}
}

func (v *validator) ports(list []corev1.ContainerPort, p *field.Path, taken map[string]string) {
	names := sets.New[string]()
	for i, port := range list {
		at := p.Index(i)
		if port.Name != "" {
			v.messages(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))
			if names.Has(port.Name) {
				v.add(field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		if port.ContainerPort == 0 {
			v.add(field.Required(at.Child("containerPort"), ""))
		} else {
			v.messages(at.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		}
		oneOf(v, at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if port.HostIP != "" {
			v.errs = append(v.errs, validation.IsValidIPForLegacyField(at.Child("hostIP"), port.HostIP, false, nil)...)
		}
		if port.HostPort == 0 {
			continue
		}
		v.messages(at.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		if v.spec.HostNetwork && port.HostPort != port.ContainerPort {
			v.add(field.Invalid(at.Child("containerPort"), port.ContainerPort, "must match `hostPort` when `hostNetwork` is true"))
		}
		key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
		if by, ok := taken[key]; ok {
			err := field.Duplicate(at.Child("hostPort"), port.HostPort)
			err.Detail = "taken by " + by
			v.add(err)
		} else {
			taken[key] = at.String()
		}
	}
}

var envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
	"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}

func (v *validator) env(c *corev1.Container, p *field.Path) {
	for i, e := range c.Env {
		at := p.Child("env").Index(i)
		if e.Name == "" {
			v.add(field.Required(at.Child("name"), ""))
		} else {
			v.messages(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			v.envFrom(&e, at.Child("valueFrom"))
		}
	}
	for i, from := range c.EnvFrom {
		at := p.Child("envFrom").Index(i)
		if from.Prefix != "" {
			v.messages(at.Child("prefix"), from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		switch {
		case (from.ConfigMapRef == nil) == (from.SecretRef == nil):
			v.add(field.Invalid(at, "", "must specify exactly one of: `configMapRef` or `secretRef`"))
		case from.ConfigMapRef != nil:
			v.objectName(from.ConfigMapRef.Name, at.Child("configMapRef", "name"))
		default:
			v.objectName(from.SecretRef.Name, at.Child("secretRef", "name"))
		}
	}
}

func (v *validator) envFrom(e *corev1.EnvVar, p *field.Path) {
	from, count := e.ValueFrom, 0
	if ref := from.FieldRef; ref != nil {
		count++
		v.fieldRef(ref, p.Child("fieldRef"), envFields)
	}
	if ref := from.ResourceFieldRef; ref != nil {
		count++
		v.resourceRef(ref, p.Child("resourceFieldRef"), false)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		count++
		v.keyRef(ref.Name, ref.Key, p.Child("configMapKeyRef"))
	}
	if ref := from.SecretKeyRef; ref != nil {
		count++
		v.keyRef(ref.Name, ref.Key, p.Child("secretKeyRef"))
	}
	if ref := from.FileKeyRef; ref != nil {
		count++
		v.fileRef(ref, p.Child("fileKeyRef"))
	}
	switch {
	case e.Value != "" && count > 0:
		v.add(field.Invalid(p, "", "may not be specified when `value` is not empty"))
	case count == 0:
		v.add(field.Invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case count > 1:
		v.add(field.Invalid(p, "", "may not have more than one field specified at a time"))
	}
}

func (v *validator) fieldRef(ref *corev1.ObjectFieldSelector, p *field.Path, paths []string) {
	if ref.APIVersion != "v1" {
		v.add(field.NotSupported(p.Child("apiVersion"), ref.APIVersion, []string{"v1"}))
	}
	if ref.FieldPath == "" {
		v.add(field.Required(p.Child("fieldPath"), ""))
		return
	}
	for _, prefix := range []string{"metadata.labels['", "metadata.annotations['"} {
		if rest, ok := strings.CutPrefix(ref.FieldPath, prefix); ok && strings.HasSuffix(rest, "']") {
			key := strings.TrimSuffix(rest, "']")
			v.messages(p.Child("fieldPath"), ref.FieldPath, validation.IsQualifiedName(strings.ToLower(key)))
			return
		}
	}
	if !slices.Contains(paths, ref.FieldPath) {
		v.add(field.NotSupported(p.Child("fieldPath"), ref.FieldPath, paths))
	}
}

func (v *validator) resourceRef(ref *corev1.ResourceFieldSelector, p *field.Path, inVolume bool) {
	if inVolume && ref.ContainerName == "" {
		v.add(field.Required(p.Child("containerName"), ""))
	}
	if ref.ContainerName != "" {
		found := false
		for c := range containers(v.spec) {
			found = found || c.Name == ref.ContainerName
		}
		if !found {
			v.add(field.NotFound(p.Child("containerName"), ref.ContainerName))
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	known := name == "cpu" || name == "memory" || name == "ephemeral-storage" || strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	switch {
	case ref.Resource == "":
		v.add(field.Required(p.Child("resource"), ""))
	case (kind != "limits" && kind != "requests") || !known:
		v.add(field.NotSupported(p.Child("resource"), ref.Resource, []string{"limits.cpu", "limits.memory", "limits.ephemeral-storage",
			"requests.cpu", "requests.memory", "requests.ephemeral-storage"}))
	case ref.Divisor.Sign() < 0:
		v.add(field.Invalid(p.Child("divisor"), ref.Divisor.String(), "must be greater than 0"))
	}
}

func (v *validator) keyRef(name, key string, p *field.Path) {
	v.objectName(name, p.Child("name"))
	if key == "" {
		v.add(field.Required(p.Child("key"), ""))
		return
	}
	v.messages(p.Child("key"), key, validation.IsConfigMapKey(key))
}

func (v *validator) objectName(name string, p *field.Path) {
	if name == "" {
		v.add(field.Required(p, ""))
		return
	}
	v.messages(p, name, validation.IsDNS1123Subdomain(name))
}

func (v *validator) containerSecurity(context *corev1.SecurityContext, p *field.Path) {
	if context == nil {
		return
	}
	v.ids(p, context.RunAsUser, context.RunAsGroup)
	v.seccomp(context.SeccompProfile, p.Child("seccompProfile"))
	v.appArmor(context.AppArmorProfile, p.Child("appArmorProfile"))
	if context.ProcMount != nil {
		oneOf(v, p.Child("procMount"), *context.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *context.ProcMount == corev1.UnmaskedProcMount && !userNamespace(v.spec) {
			v.add(field.Invalid(p.Child("procMount"), *context.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	if context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation {
		if isTrue(context.Privileged) {
			v.add(field.Invalid(p, "", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if context.Capabilities != nil && (slices.Contains(context.Capabilities.Add, "CAP_SYS_ADMIN") || slices.Contains(context.Capabilities.Add, "SYS_ADMIN")) {
			v.add(field.Invalid(p, "", "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
}

func (v *validator) probe(probe *corev1.Probe, p *field.Path, c *corev1.Container, onlyOneSuccess bool) {
	if probe == nil {
		return
	}
	v.handler(probe.Exec, probe.HTTPGet, probe.TCPSocket, probe.GRPC, nil, p)
	v.notNegative(p.Child("initialDelaySeconds"), int64(probe.InitialDelaySeconds))
	v.notNegative(p.Child("timeoutSeconds"), int64(probe.TimeoutSeconds))
	v.notNegative(p.Child("periodSeconds"), int64(probe.PeriodSeconds))
	v.notNegative(p.Child("successThreshold"), int64(probe.SuccessThreshold))
	v.notNegative(p.Child("failureThreshold"), int64(probe.FailureThreshold))
	if onlyOneSuccess && probe.SuccessThreshold > 1 {
		v.add(field.Invalid(p.Child("successThreshold"), probe.SuccessThreshold, "must be 1"))
	}
	if grace := probe.TerminationGracePeriodSeconds; grace != nil {
		switch {
		case !onlyOneSuccess:
			v.add(field.Invalid(p.Child("terminationGracePeriodSeconds"), *grace, "must not be set for readinessProbes"))
		case *grace <= 0:
			v.add(field.Invalid(p.Child("terminationGracePeriodSeconds"), *grace, "must be greater than 0"))
		}
	}
	// The API server lets a name pass that no port has, and the probe never works.
	for at, port := range map[*field.Path]*intstr.IntOrString{
		p.Child("httpGet", "port"):   httpPort(probe.HTTPGet),
		p.Child("tcpSocket", "port"): tcpPort(probe.TCPSocket),
	} {
		if port != nil && port.Type == intstr.String && port.StrVal != "" &&
			!slices.ContainsFunc(c.Ports, func(have corev1.ContainerPort) bool { return have.Name == port.StrVal }) {
			v.add(field.NotFound(at, port.StrVal))
		}
	}
}

func httpPort(get *corev1.HTTPGetAction) *intstr.IntOrString {
	if get == nil {
		return nil
	}
	return &get.Port
}

func tcpPort(socket *corev1.TCPSocketAction) *intstr.IntOrString {
	if socket == nil {
		return nil
	}
	return &socket.Port
}

func (v *validator) hook(hook *corev1.LifecycleHandler, p *field.Path) {
	if hook != nil {
		v.handler(hook.Exec, hook.HTTPGet, hook.TCPSocket, nil, hook.Sleep, p)
	}
}

func (v *validator) handler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction,
	grpc *corev1.GRPCAction, sleep *corev1.SleepAction, p *field.Path) {
	count := 0
	once := func(name string) *field.Path {
		if count++; count > 1 {
			v.add(field.Forbidden(p.Child(name), "may not specify more than 1 handler type"))
		}
		return p.Child(name)
	}
	if exec != nil {
		if at := once("exec"); len(exec.Command) == 0 {
			v.add(field.Required(at.Child("command"), ""))
		}
	}
	if get != nil {
		at := once("httpGet")
		v.port(get.Port, at.Child("port"))
		oneOf(v, at.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
		for i, header := range get.HTTPHeaders {
			v.messages(at.Child("httpHeaders").Index(i).Child("name"), header.Name, validation.IsHTTPHeaderName(header.Name))
		}
	}
	if tcp != nil {
		v.port(tcp.Port, once("tcpSocket").Child("port"))
	}
	if grpc != nil {
		v.messages(once("grpc").Child("port"), grpc.Port, validation.IsValidPortNum(int(grpc.Port)))
	}
	if sleep != nil {
		if at := once("sleep"); sleep.Seconds < 0 || (v.spec.TerminationGracePeriodSeconds != nil && sleep.Seconds > *v.spec.TerminationGracePeriodSeconds) {
			v.add(field.Invalid(at.Child("seconds"), sleep.Seconds, "must not be negative, nor longer than terminationGracePeriodSeconds"))
		}
	}
	if count == 0 {
		v.add(field.Required(p, "must specify a handler type"))
	}
}

func (v *validator) port(port intstr.IntOrString, p *field.Path) {
	if port.Type == intstr.Int {
		v.messages(p, port.IntVal, validation.IsValidPortNum(int(port.IntVal)))
		return
	}
	v.messages(p, port.StrVal, validation.IsValidPortName(port.StrVal))
}

func (v *validator) resources(r *corev1.ResourceRequirements, p *field.Path, claims []corev1.PodResourceClaim) {
	for name, quantity := range r.Limits {
		at := p.Child("limits").Key(string(name))
		v.resourceName(name, at)
		if quantity.Sign() < 0 {
			v.add(field.Invalid(at, quantity.String(), "must be greater than or equal to 0"))
		}
	}
	for name, quantity := range r.Requests {
		at := p.Child("requests").Key(string(name))
		v.resourceName(name, at)
		if quantity.Sign() < 0 {
			v.add(field.Invalid(at, quantity.String(), "must be greater than or equal to 0"))
		}
		if limit, ok := r.Limits[name]; ok && quantity.Cmp(limit) > 0 {
			// The API server names the requests without the key.
			v.add(field.Invalid(p.Child("requests"), quantity.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	for i, claim := range r.Claims {
		if !slices.ContainsFunc(claims, func(have corev1.PodResourceClaim) bool { return have.Name == claim.Name }) {
			v.add(field.NotFound(p.Child("claims").Index(i).Child("name"), claim.Name))
		}
	}
}

func (v *validator) resourceName(name corev1.ResourceName, p *field.Path) {
	switch {
	case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage:
	case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
	case !strings.Contains(string(name), "/"):
		v.add(field.Invalid(p, name, "must be a standard resource for containers"))
	default:
		v.messages(p, name, validation.IsQualifiedName(string(name)))
	}
}
