package proxyrules_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func trimmed[T any](t *testing.T, objects []*T) []*T {
	t.Helper()
	out := make([]*T, len(objects))
	for i, o := range objects {
		small, err := proxyrules.Trim(o)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = small.(*T)
	}
	return out
}

func text(t *testing.T, table *proxyrules.Table) string {
	t.Helper()
	out, err := json.MarshalIndent(table, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestTrimKeepsRules builds tables of random objects and of what Trim leaves of them.
func TestTrimKeepsRules(t *testing.T) {
	services, endpointSlices := many(60)
	pool, poolSlices := services, endpointSlices
	r := rand.New(rand.NewPCG(7, 7))
	for step := range 60 {
		services, endpointSlices = mutate(r, services, endpointSlices, pool, poolSlices)
		whole, problems := proxyrules.Build(services, endpointSlices, testNode, nil)
		small, smallProblems := proxyrules.Build(trimmed(t, services), trimmed(t, endpointSlices), testNode, nil)
		if diff := cmp.Diff(text(t, whole), text(t, small)); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
		if diff := cmp.Diff(problems, smallProblems); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
	}
}

func TestTrim(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1", ResourceVersion: "2", Generation: 3,
		Labels:        map[string]string{"app": "web", proxyrules.LabelServiceProxyName: "other", discoveryv1.LabelServiceName: "web"},
		Annotations:   map[string]string{"note": "long", corev1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "someone"}}, OwnerReferences: []metav1.OwnerReference{{Name: "owner"}}}
	kept := metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1", ResourceVersion: "2"}
	service := &corev1.Service{ObjectMeta: meta, Spec: policies(external).Spec}
	service.Spec.Selector = map[string]string{"app": "web"}
	service.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1", IPMode: pointer(corev1.LoadBalancerIPModeProxy)}}
	service.Status.Conditions = []metav1.Condition{{Type: "Ready"}}
	wantService := service.DeepCopy()
	wantService.ObjectMeta, wantService.Status.Conditions = kept, nil
	wantService.Labels = map[string]string{proxyrules.LabelServiceProxyName: "other"}

	slice := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv6,
		Ports: []discoveryv1.EndpointPort{{Name: pointer("http"), Protocol: pointer(corev1.ProtocolTCP), Port: pointer(int32(80)), AppProtocol: pointer("h2c")}, {}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"fd00::1", "fd00::2"}, NodeName: pointer("node1"), Zone: pointer("zone1"),
				Conditions: discoveryv1.EndpointConditions{Ready: pointer(true), Terminating: pointer(false)},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-1", UID: "4"}},
			{},
			{Addresses: []string{"fd00::3"}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "zone1"}}}},
		}}
	wantSlice := slice.DeepCopy()
	wantSlice.ObjectMeta = kept
	wantSlice.Labels = map[string]string{proxyrules.LabelServiceProxyName: "other", discoveryv1.LabelServiceName: "web"}
	wantSlice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}
	first := &wantSlice.Endpoints[0]
	first.Addresses, first.Zone, first.TargetRef = first.Addresses[:1], nil, &corev1.ObjectReference{Name: "web-1"}

	untouched, untouchedSlice := service.DeepCopy(), slice.DeepCopy()
	for _, c := range []struct{ given, want any }{
		{service, wantService}, {slice, wantSlice}, {&corev1.Pod{}, &corev1.Pod{}},
		{(*corev1.Service)(nil), (*corev1.Service)(nil)}, {(*discoveryv1.EndpointSlice)(nil), (*discoveryv1.EndpointSlice)(nil)}, {nil, nil},
	} {
		got, err := proxyrules.Trim(c.given)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%T: %s", c.given, diff)
		}
		again, _ := proxyrules.Trim(got)
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%T, twice: %s", c.given, diff)
		}
	}
	if diff := cmp.Diff(untouched, service) + cmp.Diff(untouchedSlice, slice); diff != "" {
		t.Errorf("what was given has changed: %s", diff)
	}
}
