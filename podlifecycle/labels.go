package podlifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Labels of sandboxes and containers; those of the kubelet (Kubernetes v1.37.0
// staging/src/k8s.io/cri-client/pkg, pkg/kubelet/types/labels.go), so that
// other tools of a node know them.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
	// LabelAgent tells which agent made a sandbox: its NodeName, or "nodekit".
	// What another made is never touched.
	LabelAgent = "nodekit.dev/agent"
)

// AnnotationGrace of a sandbox is the pod's grace period in seconds, for an
// agent that knows nothing else of it any more.
const AnnotationGrace = "nodekit.dev/grace-seconds"

// AnnotationUsers of a sandbox is the first of its user IDs on the node, if it
// has a user namespace.
const AnnotationUsers = "nodekit.dev/user-ids"

// Annotations of containers, read again after a restart of the agent.
const (
	// AnnotationHash is ContainerHash of what the container was made from.
	AnnotationHash = "nodekit.dev/container-hash"
	// AnnotationImage is the reference that the spec named then.
	AnnotationImage = "nodekit.dev/image"
	// AnnotationLevel is the back-off level that the container was started at.
	AnnotationLevel = "nodekit.dev/backoff-level"
	// AnnotationSize is the CPU and memory that the container's cgroup was made
	// with, a ResourceRequirements in JSON.
	AnnotationSize = "nodekit.dev/size"
	// AnnotationMessagePath is where the termination message lies on the host.
	AnnotationMessagePath = "nodekit.dev/termination-message"
	// AnnotationMessagePolicy is the container's terminationMessagePolicy.
	AnnotationMessagePolicy = "nodekit.dev/termination-message-policy"
)

// hashVersion changes whenever other fields are hashed. A container that
// carries another version is never taken for changed.
const hashVersion = "v1"

// ContainerHash tells whether a running container is still what its spec asks
// for. Only fields that may change in place are hashed, name and image, in a
// form of its own and not as a Go struct: a new field in the API must not
// restart every container of a node.
func ContainerHash(c *corev1.Container) string {
	// A list of strings encodes the same for ever.
	text, _ := json.Marshal([]string{c.Name, c.Image})
	sum := sha256.Sum256(text)
	return hashVersion + ":" + hex.EncodeToString(sum[:8])
}

// changed tells whether got was made from another spec than c.
func changed(got runtimeiface.Container, c *corev1.Container) bool {
	have := got.Annotations[AnnotationHash]
	version, _, _ := strings.Cut(have, ":")
	return version == hashVersion && have != ContainerHash(c)
}

// levelOf is the back-off level that got was started at. One without the
// annotation, made by another agent, is judged by its attempt.
func levelOf(got runtimeiface.Container) int {
	if level, err := strconv.Atoi(got.Annotations[AnnotationLevel]); err == nil && level >= 0 {
		return level
	}
	return int(min(got.Attempt, maxLevel))
}
