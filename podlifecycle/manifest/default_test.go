package manifest_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

func TestDefaultPod(t *testing.T) {
	g := NewWithT(t)
	pod := spec(t, `
hostNetwork: true
priorityClassName: system-node-critical
serviceAccount: robot
initContainers: [{name: setup, image: "setup:1"}]
containers:
- name: app
  image: registry:5000/app
  ports: [{containerPort: 80}]
  resources: {limits: {cpu: 1, memory: 64Mi}, requests: {cpu: 500m}}
  env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  livenessProbe: {httpGet: {port: 80}}
  readinessProbe: {grpc: {port: 80}, periodSeconds: 3}
  lifecycle: {preStop: {httpGet: {port: 80}}}
volumes:
- name: a
- {name: b, secret: {secretName: x}}
- {name: c, configMap: {name: x}}
- {name: d, hostPath: {path: /}}
- {name: e, projected: {sources: [{downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}]}}
`)
	s := pod.Spec
	g.Expect(s.RestartPolicy).To(Equal(corev1.RestartPolicyAlways))
	g.Expect(s.DNSPolicy).To(Equal(corev1.DNSClusterFirst))
	g.Expect(*s.TerminationGracePeriodSeconds).To(Equal(int64(30)))
	g.Expect(*s.EnableServiceLinks).To(BeTrue())
	g.Expect(s.SecurityContext).NotTo(BeNil())
	g.Expect(s.SchedulerName).To(Equal("default-scheduler"))
	g.Expect(s.ServiceAccountName).To(Equal("robot"))
	g.Expect(*s.Priority).To(Equal(int32(2000001000)))
	g.Expect(s.InitContainers[0].ImagePullPolicy).To(Equal(corev1.PullIfNotPresent))
	c := s.Containers[0]
	g.Expect(c.ImagePullPolicy).To(Equal(corev1.PullAlways))
	g.Expect(c.TerminationMessagePath).To(Equal("/dev/termination-log"))
	g.Expect(c.TerminationMessagePolicy).To(Equal(corev1.TerminationMessageReadFile))
	g.Expect(c.Ports[0].Protocol).To(Equal(corev1.ProtocolTCP))
	g.Expect(c.Ports[0].HostPort).To(Equal(int32(80)))
	g.Expect(c.Resources.Requests.Cpu().String()).To(Equal("500m"))
	g.Expect(c.Resources.Requests.Memory().String()).To(Equal("64Mi"))
	g.Expect(c.Env[0].ValueFrom.FieldRef.APIVersion).To(Equal("v1"))
	g.Expect(*c.LivenessProbe).To(Equal(corev1.Probe{TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Scheme: corev1.URISchemeHTTP, Port: intstr.FromInt32(80)}}}))
	g.Expect(c.ReadinessProbe.PeriodSeconds).To(Equal(int32(3)))
	g.Expect(*c.ReadinessProbe.GRPC.Service).To(BeEmpty())
	g.Expect(c.Lifecycle.PreStop.HTTPGet.Path).To(Equal("/"))
	g.Expect(s.Volumes[0].EmptyDir).NotTo(BeNil())
	g.Expect(*s.Volumes[1].Secret.DefaultMode).To(Equal(int32(0o644)))
	g.Expect(*s.Volumes[2].ConfigMap.DefaultMode).To(Equal(int32(0o644)))
	g.Expect(*s.Volumes[3].HostPath.Type).To(Equal(corev1.HostPathUnset))
	g.Expect(*s.Volumes[4].Projected.DefaultMode).To(Equal(int32(0o644)))
	g.Expect(s.Volumes[4].Projected.Sources[0].DownwardAPI.Items[0].FieldRef.APIVersion).To(Equal("v1"))
}

func TestDefaultPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"app": "Always", "app:latest": "Always", "registry:5000/a/app": "Always", "app:latest@sha256:00": "Always",
		"app:1": "IfNotPresent", "registry:5000/app:1": "IfNotPresent", "app@sha256:00": "IfNotPresent", "r:5000/app@sha256:00": "IfNotPresent",
	} {
		pod := spec(t, "containers: [{name: app, image: '"+image+"'}]")
		NewWithT(t).Expect(pod.Spec.Containers[0].ImagePullPolicy).To(Equal(want), image)
	}
}

func TestDefaultPodLevelResources(t *testing.T) {
	g := NewWithT(t)
	pod := spec(t, `
resources: {limits: {cpu: 2, memory: 1Gi}}
containers:
- {name: a, image: a, resources: {requests: {cpu: 500m}}}
- {name: b, image: b, resources: {requests: {cpu: 250m}}}
`)
	g.Expect(pod.Spec.Resources.Requests.Cpu().String()).To(Equal("750m"), "the containers' sum")
	g.Expect(pod.Spec.Resources.Requests.Memory().String()).To(Equal("1Gi"), "the pod's limit")
}

func TestDefaultSecretAndService(t *testing.T) {
	g := NewWithT(t)
	objects, problems := manifest.Decode("f", strings.NewReader(`
{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: b2xk, b: Yg==}, stringData: {a: new}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.7, sessionAffinity: ClientIP, ports: [{port: 80}, {port: 81, targetPort: http}]}}
`))
	g.Expect(problems).To(BeEmpty())
	secret := objects.Secrets[0]
	manifest.DefaultSecret(secret)
	g.Expect(secret.Type).To(Equal(corev1.SecretTypeOpaque))
	g.Expect(secret.Data).To(Equal(map[string][]byte{"a": []byte("new"), "b": []byte("b")}))
	g.Expect(secret.StringData).To(BeNil())
	s := objects.Services[0]
	manifest.DefaultService(s)
	g.Expect(s.Spec.ClusterIPs).To(Equal([]string{"10.96.0.7"}))
	g.Expect(s.Spec.IPFamilies).To(Equal([]corev1.IPFamily{corev1.IPv4Protocol}))
	g.Expect(*s.Spec.IPFamilyPolicy).To(Equal(corev1.IPFamilyPolicySingleStack))
	g.Expect(*s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds).To(Equal(int32(10800)))
	g.Expect(s.Spec.Ports[0].TargetPort).To(Equal(intstr.FromInt32(80)))
	g.Expect(s.Spec.Ports[0].Protocol).To(Equal(corev1.ProtocolTCP))
	g.Expect(s.Spec.Ports[1].TargetPort).To(Equal(intstr.FromString("http")))
	g.Expect(s.Spec.ExternalTrafficPolicy).To(Equal(corev1.ServiceExternalTrafficPolicyCluster))
	g.Expect(*s.Spec.InternalTrafficPolicy).To(Equal(corev1.ServiceInternalTrafficPolicyCluster))
}
