package proxyrules

import (
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trim gives a copy of a *corev1.Service or *discoveryv1.EndpointSlice that gives
// the same Table and takes less memory: without managed fields, owners, Service
// conditions, and labels, annotations and further addresses that nobody here
// reads; texts that many objects have are there once. Anything else, nil too, is
// given back as it is. The error is always nil: Trim is meant for the transform
// of an informer, client-go's cache.TransformFunc, where kube-proxy drops managed
// fields (Kubernetes v1.37.0 cmd/kube-proxy/app/server.go).
func Trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Service:
		if o != nil {
			return trimService(o), nil
		}
	case *discoveryv1.EndpointSlice:
		if o != nil {
			return trimSlice(o), nil
		}
	}
	return object, nil
}

func trimService(o *corev1.Service) *corev1.Service {
	s := &corev1.Service{ObjectMeta: trimMeta(&o.ObjectMeta, LabelServiceProxyName), Spec: o.Spec}
	spec := &s.Spec
	spec.Ports = slices.Clone(spec.Ports)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		p.Name, p.Protocol = once(p.Name), once(p.Protocol)
	}
	spec.ClusterIPs, spec.ExternalIPs = slices.Clone(spec.ClusterIPs), slices.Clone(spec.ExternalIPs)
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == spec.ClusterIP {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	spec.IPFamilies = slices.Clone(spec.IPFamilies)
	for i, family := range spec.IPFamilies {
		spec.IPFamilies[i] = once(family)
	}
	spec.Type, spec.SessionAffinity = once(spec.Type), once(spec.SessionAffinity)
	spec.ExternalTrafficPolicy = once(spec.ExternalTrafficPolicy)
	spec.LoadBalancerSourceRanges = slices.Clone(spec.LoadBalancerSourceRanges)
	s.Status.LoadBalancer.Ingress = slices.Clone(o.Status.LoadBalancer.Ingress)
	return s
}

const addressRoom = len("255.255.255.255")

func trimSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  trimMeta(&o.ObjectMeta, discoveryv1.LabelServiceName, corev1.IsHeadlessService, LabelServiceProxyName),
		AddressType: once(o.AddressType),
		Endpoints:   make([]discoveryv1.Endpoint, len(o.Endpoints)),
		Ports:       slices.Clone(o.Ports),
	}
	if at, ok := o.Annotations[corev1.EndpointsLastChangeTriggerTime]; ok {
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: at}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name != nil {
			p.Name = new(once(*p.Name))
		}
		if p.Protocol != nil {
			p.Protocol = new(once(*p.Protocol))
		}
	}
	// Of each endpoint the first address counts. All are pieces of one text.
	var text strings.Builder
	text.Grow(addressRoom * len(o.Endpoints))
	for i := range o.Endpoints {
		if addresses := o.Endpoints[i].Addresses; len(addresses) > 0 {
			text.WriteString(addresses[0])
		}
	}
	rest, addresses, nodes := text.String(), make([]string, len(o.Endpoints)), make([]string, len(o.Endpoints))
	for i := range o.Endpoints {
		from, to := &o.Endpoints[i], &s.Endpoints[i]
		if len(from.Addresses) > 0 {
			n := len(from.Addresses[0])
			addresses[i], rest = rest[:n], rest[n:]
			to.Addresses = addresses[i : i+1 : i+1]
		}
		to.Conditions = discoveryv1.EndpointConditions{Ready: shared(from.Conditions.Ready), Serving: shared(from.Conditions.Serving),
			Terminating: shared(from.Conditions.Terminating)}
		if from.NodeName != nil {
			nodes[i] = once(*from.NodeName)
			to.NodeName = &nodes[i]
		}
		to.Hints = from.Hints
		if from.TargetRef != nil {
			to.TargetRef = &corev1.ObjectReference{Name: from.TargetRef.Name}
		}
	}
	return s
}

// conditions are what all trimmed endpoints point to.
var conditions = [2]bool{false, true}

func shared(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &conditions[1]
	}
	return &conditions[0]
}

// trimMeta keeps what an informer needs, and some labels.
func trimMeta(o *metav1.ObjectMeta, labels ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: once(o.Namespace), Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
	for _, key := range labels {
		if value, ok := o.Labels[key]; ok {
			if m.Labels == nil {
				m.Labels = make(map[string]string, 1)
			}
			m.Labels[key] = value
		}
	}
	return m
}

func once[T ~string](s T) T { return T(unique.Make(string(s)).Value()) }
