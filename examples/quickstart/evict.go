package main

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/eviction/nodeusage"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// evict is how pods are evicted; nil is not at all.
func evict(o options, runtime *oci.Runtime) (*podlifecycle.Eviction, error) {
	if o.eviction == "" {
		return nil, nil
	}
	thresholds, err := o.thresholds()
	if err != nil {
		return nil, err
	}
	node, err := nodeusage.New(nodeusage.Config{NodeFS: o.root})
	if err != nil {
		return nil, err
	}
	// All pods here are static, and the kubelet would evict none of them.
	system := func(pod *corev1.Pod) bool { return pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000 }
	return &podlifecycle.Eviction{Policy: eviction.Config{Thresholds: thresholds, Critical: system},
		Node: node, Meter: node, Disk: node.Disk, RootFS: runtime.ContainerFilesystem}, nil
}
