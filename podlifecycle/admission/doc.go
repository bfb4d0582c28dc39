// Package admission decides whether a node takes a pod: its operating system,
// labels and sysctls, and whether its requests fit beside the pods that are
// there. For a critical pod it chooses whom to end to make room. It is pure.
//
//	node, err := admission.New(admission.Config{Allocatable: allocatable, Labels: labels})
//	load := node.Load(running...)
//	result := load.Admit(pod)
//	switch {
//	case result.Reason != "":
//		fail(pod, result.Reason, result.Message) // OutOfcpu, NodeAffinity, ...
//	case len(result.Preempt) > 0:
//		end(result.Preempt) // and admit pod once they are gone
//	default:
//		load.Add(pod)
//	}
//
// Rules, reasons and messages are those of the kubelet, Kubernetes v1.37.0
// pkg/kubelet/lifecycle/predicate.go, pkg/kubelet/preemption and
// pkg/kubelet/sysctl. Host ports are not judged here, nor taints, nor
// spec.nodeName: whoever asks has decided that the pod is this node's.
//
// # Traps
//
//   - A resource that Allocatable does not name is not limited; the kubelet takes
//     it for none.
//   - Static pods are critical: one that does not fit is never OutOfcpu. It
//     preempts others, and if there is nobody to preempt the reason is
//     UnexpectedAdmissionError.
package admission
