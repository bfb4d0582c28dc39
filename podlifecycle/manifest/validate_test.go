package manifest_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

func texts(errs field.ErrorList) []string {
	result := []string{}
	for _, err := range errs {
		result = append(result, err.Error())
	}
	return result
}

func TestValidate(t *testing.T) {
	app := "containers:\n- name: app\n  image: app\n"
	for name, test := range map[string]struct {
		spec string
		want []string // how each error begins
	}{
		"good":      {app, nil},
		"ephemeral": {app + "ephemeralContainers: [{name: d, image: d, targetContainerName: app}, {name: e, image: d}]", nil},
		"bad ephemeral": {app + "  volumeMounts: [{name: v, mountPath: /v}]\nvolumes: [{name: v}]\nephemeralContainers: [{name: app, image: ''}, {name: d, image: d, targetContainerName: e, volumeMounts: [{name: v, mountPath: /v, subPath: a}]}, {name: e, image: d, targetContainerName: d}]",
			[]string{"spec.ephemeralContainers[0].image: Required", `spec.ephemeralContainers[0].name: Duplicate value: "app"`, "spec.ephemeralContainers[1].targetContainerName: Not found",
				"spec.ephemeralContainers[1].volumeMounts[0].subPath: Forbidden", "spec.ephemeralContainers[2].targetContainerName: Not found"}},
		"user namespace": {"hostUsers: false\nhostNetwork: true\nhostPID: true\nhostIPC: true\n" + app,
			[]string{"spec.hostIPC: Forbidden: when `hostUsers` is false", "spec.hostNetwork: Forbidden", "spec.hostPID: Forbidden"}},
		"node's users, node's network": {"hostUsers: true\nhostNetwork: true\n" + app, nil},
		"procMount": {app + "  securityContext: {procMount: Unmasked}",
			[]string{"spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false"}},
		"resize policy": {app + "  resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}, {resourceName: cpu, restartPolicy: NotRequired}, {resourceName: disk, restartPolicy: Maybe}]",
			[]string{"spec.containers[0].resizePolicy[1]: Duplicate value", "spec.containers[0].resizePolicy[2].resourceName: Unsupported value", "spec.containers[0].resizePolicy[2].restartPolicy: Unsupported value"}},
		"resize by restart, never": {"restartPolicy: Never\n" + app + "  resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]",
			[]string{"spec.containers[0].resizePolicy[0].restartPolicy: Invalid value"}},
		"resize by restart, once": {"initContainers: [{name: i, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]\n" + app,
			[]string{"spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value"}},
		"sidecar with rules": {"initContainers: [{name: i, image: i, restartPolicy: Always, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [3]}}]}]\n" + app, nil},
		"file variable":      {app + "  env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: a/b.env, key: A}}}]\nvolumes: [{name: v}]", nil},
		"bad file variables": {app + "  env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: ../b, key: a=b}}}, {name: B, valueFrom: {fileKeyRef: {volumeName: w, path: '', key: ''}}}]\nvolumes: [{name: v, hostPath: {path: /a}}]",
			[]string{"spec.containers[0].env[0].valueFrom.fileKeyRef.key: Invalid", "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid",
				"spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid", "spec.containers[0].env[1].valueFrom.fileKeyRef.key: Required",
				"spec.containers[0].env[1].valueFrom.fileKeyRef.path: Required", "spec.containers[0].env[1].valueFrom.fileKeyRef.volumeName: Not found"}},
		"no containers": {"restartPolicy: Never", []string{"spec.containers: Required value"}},
		"no image":      {"containers: [{name: app}]", []string{"spec.containers[0].image: Required value"}},
		"same names": {"initContainers: [{name: app, image: a}]\n" + app,
			[]string{`spec.containers[0].name: Duplicate value: "app"`}},
		"bad name": {"containers: [{name: App_1, image: a}]", []string{`spec.containers[0].name: Invalid value: "App_1": a lowercase RFC 1123 label`}},
		"port range": {app + "  ports: [{containerPort: 80}, {containerPort: 70000}]",
			[]string{"spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"}},
		"host port twice": {"hostNetwork: true\n" + app + "  ports: [{containerPort: 80}]\n- {name: b, image: b, ports: [{containerPort: 81}, {containerPort: 80}]}",
			[]string{"spec.containers[1].ports[1].hostPort: Duplicate value: 80: taken by spec.containers[0].ports[0]"}},
		"host port of another protocol": {"hostNetwork: true\n" + app + "  ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]", nil},
		"protocol":                      {app + "  ports: [{containerPort: 80, protocol: tcp}]", []string{`spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP"`}},
		"port names":                    {app + "  ports: [{name: a, containerPort: 80}, {name: a, containerPort: 81}]", []string{`spec.containers[0].ports[1].name: Duplicate value: "a"`}},
		"restart policy":                {app + "restartPolicy: Sometimes", []string{`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`}},
		"grace":                         {app + "terminationGracePeriodSeconds: -1", []string{"spec.terminationGracePeriodSeconds: Invalid value: -1"}},
		"mount of nothing":              {app + "  volumeMounts: [{name: data, mountPath: /data}]", []string{`spec.containers[0].volumeMounts[0].name: Not found: "data"`}},
		"same mount path": {app + "  volumeMounts: [{name: a, mountPath: /data}, {name: a, mountPath: /data}]\nvolumes: [{name: a}]",
			[]string{`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/data": must be unique`}},
		"sub path climbs": {app + "  volumeMounts: [{name: a, mountPath: /data, subPath: a/../../b}]\nvolumes: [{name: a}]",
			[]string{`spec.containers[0].volumeMounts[0].subPath: Invalid value: "a/../../b": must not contain '..'`}},
		"sub path absolute": {app + "  volumeMounts: [{name: a, mountPath: /data, subPath: /etc}]\nvolumes: [{name: a}]",
			[]string{`spec.containers[0].volumeMounts[0].subPath: Invalid value: "/etc": must be a relative path`}},
		"propagation": {app + "  volumeMounts: [{name: a, mountPath: /data, mountPropagation: Bidirectional}]\nvolumes: [{name: a}]",
			[]string{"spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional"}},
		"two volume sources": {app + "volumes: [{name: a, emptyDir: {}, hostPath: {path: /}}]", []string{"spec.volumes[0].emptyDir: Forbidden: may not specify more than 1 volume type"}},
		"volume names":       {app + "volumes: [{name: a}, {name: a}]", []string{`spec.volumes[1].name: Duplicate value: "a"`}},
		"host path":          {app + "volumes: [{name: a, hostPath: {path: /a/../b, type: Folder}}]", []string{"spec.volumes[0].hostPath.path: Invalid value", "spec.volumes[0].hostPath.type: Unsupported value"}},
		"item path":          {app + "volumes: [{name: a, configMap: {name: c, items: [{key: k, path: ../x}]}}]", []string{`spec.volumes[0].configMap.items[0].path: Invalid value: "../x": must not contain '..'`}},
		"item path dots":     {app + "volumes: [{name: a, configMap: {name: c, items: [{key: k, path: ..data}]}}]", []string{`spec.volumes[0].configMap.items[0].path: Invalid value: "..data": must not start with '..'`}},
		"mode":               {app + "volumes: [{name: a, secret: {secretName: s, defaultMode: 512}}]", []string{"spec.volumes[0].secret.defaultMode: Invalid value: 512"}},
		"projected conflict": {app + "volumes: [{name: a, projected: {sources: [{configMap: {name: c, items: [{key: k, path: p}]}}, {secret: {name: c, items: [{key: k, path: p}]}}]}}]",
			[]string{`spec.volumes[0].projected.sources[1].secret.items[0].path: Invalid value: "p": conflicting duplicate paths`}},
		"env name": {app + "  env: [{name: 'a=b', value: x}]", []string{`spec.containers[0].env[0].name: Invalid value: "a=b"`}},
		"env field": {app + "  env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostname}}}]",
			[]string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "spec.hostname"`}},
		"env label": {app + "  env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}]", nil},
		"env both": {app + "  env: [{name: A, value: x, valueFrom: {configMapKeyRef: {name: c, key: k}}}]",
			[]string{"spec.containers[0].env[0].valueFrom: Invalid value"}},
		"env resource": {app + "  env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}]",
			[]string{`spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu"`}},
		"envFrom": {app + "  envFrom: [{}]", []string{"spec.containers[0].envFrom[0]: Invalid value"}},
		"probe without handler": {app + "  livenessProbe: {periodSeconds: 3}",
			[]string{"spec.containers[0].livenessProbe: Required value: must specify a handler type"}},
		"probe with two": {app + "  livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 80}}",
			[]string{"spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"}},
		"liveness threshold": {app + "  livenessProbe: {exec: {command: [a]}, successThreshold: 2}", []string{"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"}},
		"readiness grace":    {app + "  readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 2}", []string{"spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 2"}},
		"probe port name":    {app + "  ports: [{name: web, containerPort: 80}]\n  readinessProbe: {httpGet: {port: http}}", []string{`spec.containers[0].readinessProbe.httpGet.port: Not found: "http"`}},
		"probe of init": {"initContainers: [{name: i, image: i, livenessProbe: {exec: {command: [a]}}}]\n" + app,
			[]string{"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers"}},
		"probe of sidecar":   {"initContainers: [{name: i, image: i, restartPolicy: Always, livenessProbe: {exec: {command: [a]}}}]\n" + app, nil},
		"request over limit": {app + "  resources: {requests: {cpu: 2}, limits: {cpu: 1}}", []string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`}},
		"negative limit":     {app + "  resources: {limits: {memory: -1}}", []string{"spec.containers[0].resources.limits[memory]: Invalid value", "spec.containers[0].resources.requests[memory]: Invalid value"}},
		"dns none":           {app + "dnsPolicy: None", []string{"spec.dnsConfig.nameservers: Required value"}},
		"dns server":         {app + "dnsConfig: {nameservers: [one]}", []string{"spec.dnsConfig.nameservers[0]: Invalid value"}},
		"hostname":           {app + "hostname: a.b", []string{`spec.hostname: Invalid value: "a.b"`}},
		"seccomp":            {app + "securityContext: {seccompProfile: {type: Localhost}}", []string{"spec.securityContext.seccompProfile.localhostProfile: Required value"}},
		"AppArmor":           {app + "securityContext: {appArmorProfile: {type: Localhost}}", []string{"spec.securityContext.appArmorProfile.localhostProfile: Required value"}},
		"AppArmor's name":    {app + "  securityContext: {appArmorProfile: {type: RuntimeDefault, localhostProfile: a}}", []string{"spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value"}},
		"AppArmor's type":    {app + "  securityContext: {appArmorProfile: {type: Strict}}", []string{"spec.containers[0].securityContext.appArmorProfile.type: Unsupported value"}},
		"AppArmor works":     {app + "  securityContext: {appArmorProfile: {type: Localhost, localhostProfile: a}}", nil},
		"escalation": {app + "  securityContext: {privileged: true, allowPrivilegeEscalation: false}",
			[]string{"spec.containers[0].securityContext: Invalid value"}},
		"user":     {app + "  securityContext: {runAsUser: -1}", []string{"spec.containers[0].securityContext.runAsUser: Invalid value: -1"}},
		"sysctl":   {"hostNetwork: true\n" + app + "securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]}", []string{"spec.securityContext.sysctls[0].name: Invalid value"}},
		"os":       {app + "os: {name: plan9}", []string{`spec.os.name: Unsupported value: "plan9"`}},
		"selector": {app + "nodeSelector: {'a b': c}", []string{`spec.nodeSelector: Invalid value: "a b"`}},
		"affinity": {app + "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}, {matchExpressions: [{key: a, operator: Near}, {key: a, operator: In}]}]}}}",
			[]string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[0].operator: Unsupported value: \"Near\"",
				"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[1].values: Invalid value"}},
		"affinity to nothing": {app + "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}",
			[]string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value"}},
		"sleep": {app + "  lifecycle: {preStop: {sleep: {seconds: 31}}}", []string{"spec.containers[0].lifecycle.preStop.sleep.seconds: Invalid value"}},
		"image volume": {app + "volumes: [{name: v, image: {pullPolicy: Maybe}}, {name: w, image: {reference: ' r'}}]",
			[]string{"spec.volumes[0].image.pullPolicy: Unsupported value", "spec.volumes[0].image.reference: Required value", "spec.volumes[1].image.reference: Invalid value"}},
		"pull policy": {app + "  imagePullPolicy: Maybe", []string{"spec.containers[0].imagePullPolicy: Unsupported value"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got := texts(manifest.Validate(spec(t, test.spec)))
			g.Expect(got).To(HaveLen(len(test.want)), "%q", got)
			for i := range test.want {
				g.Expect(got[i]).To(HavePrefix(test.want[i]))
			}
		})
	}
}

func TestValidateMetadata(t *testing.T) {
	g := NewWithT(t)
	pod := onePod(t, "{apiVersion: v1, kind: Pod, metadata: {name: Web_1, labels: {'a b': c}}, spec: {containers: [{name: a, image: a}]}}")
	pod.UID = "../../etc"
	g.Expect(texts(manifest.Validate(pod))).To(ContainElement(HavePrefix("metadata.uid: Invalid value")))
	g.Expect(strings.Join(texts(manifest.Validate(pod)), "\n")).To(And(ContainSubstring("metadata.name: Invalid value"), ContainSubstring("metadata.labels: Invalid value")))
}

func TestValidateObjects(t *testing.T) {
	for text, want := range map[string][]string{
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {'a b': x}}":                                                                         {`data[a b]: Invalid value: "a b"`},
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: x}}":                                                                             nil,
		"{apiVersion: v1, kind: Secret, metadata: {name: s}, type: kubernetes.io/tls, stringData: {tls.crt: x}}":                                           {"data[tls.key]: Required value"},
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}]}}":                                                                {"spec.clusterIP: Required value: without an API server"},
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: None}}":                                                                    nil,
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}":                                           nil,
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: x, ports: [{port: 0}]}}":                                                   {"spec.clusterIPs[0]: Invalid value", "spec.ports[0].port: Invalid value", "spec.ports[0].targetPort: Invalid value"},
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80}]}}":                           {"spec.ports[0].nodePort: Required value"},
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30000}]}}":                          {"spec.ports[0].nodePort: Forbidden"},
		"{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {name: b, port: 80}, {port: 81}]}}": {"spec.ports[1]: Duplicate value", "spec.ports[2].name: Required value"},
	} {
		g := NewWithT(t)
		objects, problems := manifest.Decode("f", strings.NewReader(text))
		g.Expect(problems).To(BeEmpty())
		var errs field.ErrorList
		for _, o := range objects.ConfigMaps {
			errs = append(errs, manifest.ValidateConfigMap(o)...)
		}
		for _, o := range objects.Secrets {
			manifest.DefaultSecret(o)
			errs = append(errs, manifest.ValidateSecret(o)...)
		}
		for _, o := range objects.Services {
			manifest.DefaultService(o)
			errs = append(errs, manifest.ValidateService(o)...)
		}
		got := texts(errs)
		g.Expect(got).To(HaveLen(len(want)), "%s: %q", text, got)
		for i := range want {
			g.Expect(got[i]).To(HavePrefix(want[i]))
		}
	}
}
