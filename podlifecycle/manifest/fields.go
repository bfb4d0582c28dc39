package manifest

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Verdicts that are no reason to refuse.
const (
	works     = string(Yes)
	elsewhere = string(Elsewhere)
)

const (
	noneOfIts = "cannot be set for an ephemeral container"
	noPlugin  = "there is no volume plug-in for it"
	noServer  = "there is no API server to ask"

	filesOfRoot = "files belong to root, or to fsGroup"
)

// partly holds, for fields of which only some values are refused, what tells
// them: true refuses. parent is the structure that holds v, v is never zero.
var partly = map[string]func(pod *corev1.Pod, parent, v reflect.Value) bool{
	"PodSpec.automountServiceAccountToken": isTrueValue,
	"PodSpec.priorityClassName": func(_ *corev1.Pod, _, v reflect.Value) bool {
		_, builtin := builtinPriorities[v.String()]
		return !builtin
	},
	"EmptyDirVolumeSource.medium": func(_ *corev1.Pod, _, v reflect.Value) bool {
		return v.String() != string(corev1.StorageMediumMemory)
	},
	"HTTPGetAction.protocol": not(string(corev1.HTTPProtocolHTTP1)),
	"GRPCAction.mode":        not(string(corev1.GRPCProbeModePlaintext)),
}

func not(value string) func(*corev1.Pod, reflect.Value, reflect.Value) bool {
	return func(_ *corev1.Pod, _, v reflect.Value) bool { return reflect.Indirect(v).String() != value }
}

func isTrueValue(_ *corev1.Pod, _, v reflect.Value) bool { return reflect.Indirect(v).Bool() }

// verdicts says of each field, by Go type and name in JSON, that it works, is
// none of a node's business, or why it is refused. A test holds it against the
// types of k8s.io/api, and what is not in it is refused.
var verdicts = table(map[string]string{
	"PodSpec": works + `: volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds
		activeDeadlineSeconds dnsPolicy dnsConfig serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC
		hostUsers shareProcessNamespace securityContext hostname subdomain setHostnameAsFQDN hostnameOverride hostAliases priority
		imagePullSecrets enableServiceLinks overhead os resources runtimeClassName readinessGates nodeSelector affinity
		` + elsewhere + `: schedulerName tolerations preemptionPolicy topologySpreadConstraints
		schedulingGroup evictionResponders`,
	"PodOS":                   works + `: name`,
	"Affinity":                works + `: nodeAffinity ` + elsewhere + `: podAffinity podAntiAffinity`,
	"NodeAffinity":            works + `: requiredDuringSchedulingIgnoredDuringExecution ` + elsewhere + `: preferredDuringSchedulingIgnoredDuringExecution`,
	"NodeSelector":            works + `: nodeSelectorTerms`,
	"NodeSelectorTerm":        works + `: matchExpressions matchFields`,
	"NodeSelectorRequirement": works + `: key operator values`,

	"Volume":               works + `: name`,
	"VolumeSource":         works + `: hostPath emptyDir secret configMap downwardAPI projected image`,
	"ImageVolumeSource":    works + `: reference pullPolicy`,
	"HostPathVolumeSource": works + `: path type`,
	"SecretVolumeSource":   works + `: secretName items defaultMode optional`,
	"KeyToPath":            works + `: key path mode`,
	"LocalObjectReference": works + `: name`,

	"ConfigMapVolumeSource":   works + `: items defaultMode optional`,
	"DownwardAPIVolumeSource": works + `: items defaultMode`,
	"DownwardAPIVolumeFile":   works + `: path fieldRef resourceFieldRef mode`,
	"ObjectFieldSelector":     works + `: apiVersion fieldPath`,
	"ResourceFieldSelector":   works + `: containerName resource divisor`,
	"ProjectedVolumeSource":   works + `: sources defaultMode`,
	"VolumeProjection":        works + `: secret downwardAPI configMap`,
	"SecretProjection":        works + `: items optional`,
	"ConfigMapProjection":     works + `: items optional`,
	"DownwardAPIProjection":   works + `: items`,

	"Container": works + `: name image command args workingDir ports envFrom env resources restartPolicy
		restartPolicyRules volumeMounts
		livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy
		securityContext resizePolicy stdin stdinOnce tty`,
	"EphemeralContainer": works + `: targetContainerName`,
	"EphemeralContainerCommon": works + `: name image command args workingDir envFrom env volumeMounts
		terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty`,
	"ContainerResizePolicy":           works + `: resourceName restartPolicy`,
	"ContainerRestartRule":            works + `: action exitCodes`,
	"ContainerRestartRuleOnExitCodes": works + `: operator values`,

	"ContainerPort":        works + `: name containerPort protocol hostPort hostIP`,
	"EnvFromSource":        works + `: prefix configMapRef secretRef`,
	"ConfigMapEnvSource":   works + `: optional`,
	"SecretEnvSource":      works + `: optional`,
	"EnvVar":               works + `: name value valueFrom`,
	"EnvVarSource":         works + `: fieldRef resourceFieldRef configMapKeyRef secretKeyRef fileKeyRef`,
	"FileKeySelector":      works + `: volumeName path key optional`,
	"ConfigMapKeySelector": works + `: key optional`,
	"SecretKeySelector":    works + `: key optional`,
	"ResourceRequirements": works + `: limits requests`,
	"VolumeMount":          works + `: name readOnly recursiveReadOnly mountPath subPath subPathExpr mountPropagation`,
	"Probe": works + `: initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold
		terminationGracePeriodSeconds`,
	"ProbeHandler":     works + `: exec httpGet tcpSocket grpc`,
	"ExecAction":       works + `: command`,
	"HTTPGetAction":    works + `: path port host scheme httpHeaders`,
	"HTTPHeader":       works + `: name value`,
	"TCPSocketAction":  works + `: port host`,
	"GRPCAction":       works + `: port service`,
	"Lifecycle":        works + `: postStart preStop stopSignal`,
	"LifecycleHandler": works + `: exec httpGet sleep`,
	"SleepAction":      works + `: seconds`,

	"SecurityContext": works + `: capabilities privileged runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem
		allowPrivilegeEscalation procMount seccompProfile appArmorProfile seLinuxOptions`,
	"Capabilities":    works + `: add drop`,
	"SeccompProfile":  works + `: type localhostProfile`,
	"AppArmorProfile": works + `: type localhostProfile`,
	"SELinuxOptions":  works + `: user role type level`,
	"PodSecurityContext": works + `: runAsUser runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy fsGroup fsGroupChangePolicy sysctls
		seccompProfile appArmorProfile seLinuxOptions`,
	"Sysctl":             works + `: name value`,
	"HostAlias":          works + `: ip hostnames`,
	"PodDNSConfig":       works + `: nameservers searches options`,
	"PodDNSConfigOption": works + `: name value`,
	"PodReadinessGate":   works + `: conditionType`,
}, map[string]string{
	"PodSpec.automountServiceAccountToken": noServer + " for a token",
	"PodSpec.priorityClassName":            noServer + "; system-cluster-critical and system-node-critical are known",
	"PodSpec.schedulingGates":              "a pod that may not be scheduled cannot be on a node",
	"PodSpec.resourceClaims":               "dynamic resources are not allocated",

	"EmptyDirVolumeSource.medium":    "only \"\" and Memory are",
	"EmptyDirVolumeSource.sizeLimit": works,
	"EmptyDirVolumeSource.mode":      works,

	"VolumeSource.gcePersistentDisk": noPlugin, "VolumeSource.awsElasticBlockStore": noPlugin, "VolumeSource.gitRepo": noPlugin,
	"VolumeSource.nfs": noPlugin, "VolumeSource.iscsi": noPlugin, "VolumeSource.glusterfs": noPlugin,
	"VolumeSource.persistentVolumeClaim": noPlugin, "VolumeSource.rbd": noPlugin, "VolumeSource.flexVolume": noPlugin,
	"VolumeSource.cinder": noPlugin, "VolumeSource.cephfs": noPlugin, "VolumeSource.flocker": noPlugin, "VolumeSource.fc": noPlugin,
	"VolumeSource.azureFile": noPlugin, "VolumeSource.vsphereVolume": noPlugin, "VolumeSource.quobyte": noPlugin,
	"VolumeSource.azureDisk": noPlugin, "VolumeSource.photonPersistentDisk": noPlugin, "VolumeSource.portworxVolume": noPlugin,
	"VolumeSource.scaleIO": noPlugin, "VolumeSource.storageos": noPlugin, "VolumeSource.csi": noPlugin, "VolumeSource.ephemeral": noPlugin,

	"VolumeProjection.serviceAccountToken": noServer + " for a token",
	"VolumeProjection.clusterTrustBundle":  noServer,
	"VolumeProjection.podCertificate":      noServer,

	"KeyToPath.user": filesOfRoot, "SecretVolumeSource.defaultUser": filesOfRoot, "ConfigMapVolumeSource.defaultUser": filesOfRoot,
	"DownwardAPIVolumeSource.defaultUser": filesOfRoot, "ProjectedVolumeSource.defaultUser": filesOfRoot,
	"DownwardAPIVolumeFile.user":                  filesOfRoot,
	"HTTPGetAction.protocol":                      "probes speak HTTP/1.1",
	"GRPCAction.mode":                             "probes speak plain text",
	"EphemeralContainerCommon.ports":              noneOfIts,
	"EphemeralContainerCommon.resources":          noneOfIts,
	"EphemeralContainerCommon.restartPolicy":      noneOfIts,
	"EphemeralContainerCommon.restartPolicyRules": noneOfIts,
	"EphemeralContainerCommon.livenessProbe":      noneOfIts,
	"EphemeralContainerCommon.readinessProbe":     noneOfIts,
	"EphemeralContainerCommon.startupProbe":       noneOfIts,
	"EphemeralContainerCommon.lifecycle":          noneOfIts,
	"EphemeralContainerCommon.resizePolicy":       noneOfIts,
	"EphemeralContainerCommon.volumeDevices":      "block devices are not given to containers",
	"Container.volumeDevices":                     "block devices are not given to containers",
	"ResourceRequirements.claims":                 "dynamic resources are not allocated",
	"VolumeMount.bindMountOptions":                "mount options are not passed on",
	"LifecycleHandler.tcpSocket":                  "the kubelet never ran it either",
	"SecurityContext.windowsOptions":              "only linux is",
	"PodSecurityContext.windowsOptions":           "only linux is",
	"PodSecurityContext.seLinuxChangePolicy":      "files of volumes get no SELinux labels",
})

// table reads rows such as "yes: name image elsewhere: affinity".
func table(rows, single map[string]string) map[string]string {
	result := map[string]string{}
	for typeName, row := range rows {
		verdict := ""
		for _, word := range strings.Fields(row) {
			if v, ok := strings.CutSuffix(word, ":"); ok {
				verdict = v
				continue
			}
			result[typeName+"."+word] = verdict
		}
	}
	for key, verdict := range single {
		result[key] = verdict
	}
	return result
}
