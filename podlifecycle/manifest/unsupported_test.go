package manifest_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

func TestUnsupported(t *testing.T) {
	app := "containers:\n- name: app\n  image: app\n"
	for name, test := range map[string]struct {
		spec string
		want []string
	}{
		"plain":              {app, nil},
		"for schedulers":     {app + "nodeSelector: {a: b}\naffinity: {nodeAffinity: {}}\ntolerations: [{operator: Exists}]\ntopologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]\nschedulerName: mine", nil},
		"host users":         {app + "hostUsers: false", nil},
		"host users true":    {app + "hostUsers: true", nil},
		"host port":          {app + "  ports: [{containerPort: 80}, {containerPort: 81, hostPort: 81, hostIP: 127.0.0.1}]", nil},
		"host port, network": {"hostNetwork: true\n" + app + "  ports: [{containerPort: 80}]", nil},
		"token":              {app + "volumes: [{name: a}, {name: t, projected: {sources: [{configMap: {name: c}}, {serviceAccountToken: {path: t}}]}}]", []string{"spec.volumes[1].projected.sources[1].serviceAccountToken: Unsupported value: there is no API server"}},
		"network volume":     {app + "volumes: [{name: v1, nfs: {server: s, path: /}}]", []string{"spec.volumes[0].nfs: Unsupported value: there is no volume plug-in for it"}},
		"claim":              {app + "volumes: [{name: v1, persistentVolumeClaim: {claimName: c}}]", []string{"spec.volumes[0].persistentVolumeClaim"}},
		"image volume":       {app + "imagePullSecrets: [{name: s}]\nvolumes: [{name: v1, image: {reference: r, pullPolicy: Never}}]", nil},
		"ephemeral":          {app + "ephemeralContainers: [{name: d, image: d, targetContainerName: app, tty: true}]", nil},
		"ephemeral, probed":  {app + "ephemeralContainers: [{name: d, image: d, livenessProbe: {exec: {command: [a]}}}]", []string{"spec.ephemeralContainers[0].livenessProbe: Unsupported value: cannot be set for an ephemeral container"}},
		"gpu":                {app + "  resources: {limits: {example.com/gpu: 1}}", []string{"spec.containers[0].resources.limits[example.com/gpu]: Unsupported value: \"1\": there are no device plug-ins", "spec.containers[0].resources.requests[example.com/gpu]"}},
		"ephemeral storage":  {app + "  resources: {limits: {ephemeral-storage: 1Gi}}", nil},
		"storage request":    {app + "  resources: {requests: {ephemeral-storage: 1Gi}}", nil},
		"disk limit":         {app + "volumes: [{name: a, emptyDir: {sizeLimit: 1Gi}}]", nil},
		"memory limit":       {app + "volumes: [{name: a, emptyDir: {medium: Memory, sizeLimit: 1Gi}}]", nil},
		"hugepages medium":   {app + "volumes: [{name: a, emptyDir: {medium: HugePages}}]", []string{"spec.volumes[0].emptyDir.medium: Unsupported value: \"HugePages\""}},
		"AppArmor":           {app + "  securityContext: {appArmorProfile: {type: RuntimeDefault}, procMount: Default, seLinuxOptions: {level: \"s0:c1\"}}", nil},
		"SELinux":            {app + "securityContext: {seLinuxOptions: {level: s0}, seLinuxChangePolicy: Recursive}", []string{"spec.securityContext.seLinuxChangePolicy"}},
		"procMount":          {"hostUsers: false\n" + app + "  securityContext: {procMount: Unmasked}", nil},
		"terminal":           {app + "  stdin: true\n  stdinOnce: true\n  tty: true", nil},
		"resize policy":      {app + "  resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]", nil},
		"restart rules":      {app + "  restartPolicy: Never\n  restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}, {action: RestartAllContainers, exitCodes: {operator: In, values: [2]}}]", nil},
		"sysctls":            {app + "securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}, {name: kernel.msgmax, value: '1'}]}", nil},
		"for the node":       {app + "os: {name: windows}\nnodeSelector: {a: b}\naffinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}, podAntiAffinity: {}}", nil},
		"priority class":     {app + "priorityClassName: mine", []string{"spec.priorityClassName: Unsupported value: \"mine\""}},
		"critical":           {app + "priorityClassName: system-node-critical", nil},
		"no token wanted":    {app + "automountServiceAccountToken: false", nil},
		"rich": {`
shareProcessNamespace: true
initContainers: [{name: side, image: s, restartPolicy: Always, startupProbe: {grpc: {port: 1}}}]
containers:
- name: app
  image: app
  command: [a]
  args: [b]
  env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]
  envFrom: [{prefix: P, configMapRef: {name: c, optional: true}}]
  volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(A), readOnly: true, recursiveReadOnly: IfPossible}]
  lifecycle: {preStop: {sleep: {seconds: 1}}, postStart: {exec: {command: [a]}}}
  securityContext: {runAsUser: 1, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
  resources: {limits: {cpu: 1, memory: 1Gi, hugepages-2Mi: 2Mi}}
volumes: [{name: v, projected: {sources: [{secret: {name: s, items: [{key: k, path: p, mode: 256}]}}, {downwardAPI: {items: [{path: a, resourceFieldRef: {containerName: app, resource: limits.cpu}}]}}]}}]
dnsConfig: {options: [{name: ndots, value: "2"}]}
hostAliases: [{ip: 10.0.0.1, hostnames: [a]}]`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			errs := manifest.Unsupported(spec(t, test.spec))
			got := texts(errs)
			g.Expect(got).To(HaveLen(len(test.want)), "%q", got)
			for i := range test.want {
				g.Expect(got[i]).To(HavePrefix(test.want[i]))
				g.Expect(errs[i].Type).To(Equal(field.ErrorTypeNotSupported))
			}
		})
	}
}

func TestPluginsSupportTheirVolumes(t *testing.T) {
	pod := spec(t, "containers: [{name: app, image: app}]\nvolumes: [{name: a, nfs: {server: s, path: /}}, {name: b, csi: {driver: d}}]")
	NewWithT(t).Expect(texts(manifest.Unsupported(pod, "nfs"))).To(ConsistOf(HavePrefix("spec.volumes[1].csi: Unsupported value")))
}

// A new version of k8s.io/api may bring fields. Each needs a decision.
func TestEveryFieldOfAPodHasAVerdict(t *testing.T) {
	g := NewWithT(t)
	rows := map[string]manifest.Honoured{}
	for _, row := range manifest.Fields() {
		rows[row.Path] = row.Honoured
		g.Expect(row.Reason == "").To(Equal(row.Honoured == manifest.Yes || row.Honoured == manifest.Elsewhere), row.Path)
	}
	var missing []string
	seen := map[string]bool{}
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() != "k8s.io/api/core/v1" {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
				visit(f.Type)
				continue
			}
			key := typ.Name() + "." + name
			verdict, ok := rows[key]
			if !ok && !seen[key] {
				missing = append(missing, key)
			}
			seen[key] = true
			if verdict == manifest.Yes || verdict == manifest.Partly {
				visit(f.Type)
			}
		}
	}
	visit(reflect.TypeFor[corev1.PodSpec]())
	g.Expect(missing).To(BeEmpty())
	for path := range rows {
		g.Expect(seen).To(HaveKey(path), "no such field")
	}
	g.Expect(slices.IsSortedFunc(manifest.Fields(), func(a, b manifest.Field) int { return strings.Compare(a.Path, b.Path) })).To(BeTrue())
}
