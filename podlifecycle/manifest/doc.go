// Package manifest reads Kubernetes objects from JSON and YAML and does what an
// API server would do to them before a node sees them: defaulting and
// validation. It also lists, by path, each field of a pod that nodekit does not
// honour, so that nothing in a manifest is silently ignored.
//
//	objects, problems := manifest.Decode("web.yaml", file)
//	for _, pod := range objects.Pods {
//		manifest.Default(pod)
//		errs := append(manifest.Validate(pod), manifest.Unsupported(pod)...)
//		for _, err := range errs { // spec.containers[0].image: Required value
//			problems = append(problems, manifest.Problem{File: "web.yaml", Kind: "Pod",
//				Namespace: pod.Namespace, Name: pod.Name, Field: err.Field, Err: err})
//		}
//	}
//
// Kinds are Pod, ConfigMap, Secret and Service of v1, EndpointSlice of
// discovery.k8s.io/v1, and lists of them. Rules are those of Kubernetes v1.37.0
// (pkg/apis/core/v1/defaults.go, pkg/apis/core/validation); it is no complete
// copy, but whatever would let a pod start differently from what was meant is
// checked.
//
// # Supported, unsupported and meaningless fields
//
// Each field of a pod is one of three. Honoured ones work. Fields that only a
// scheduler, a controller or the API server reads (podAffinity, schedulerName,
// topologySpreadConstraints, preemptionPolicy, ...) have no meaning once a pod
// is on its node; they are accepted and do nothing. All others are in
// Unsupported's list, fields of a newer API that this package has never heard of
// included. Fields() gives the whole table.
//
// # Traps
//
//   - Unknown and duplicate fields are problems, and field names are
//     case-sensitive, as with kubectl --validate=strict.
//   - Status, resourceVersion, deletionTimestamp and other things that only a
//     server writes are dropped, so that the output of kubectl get can be used.
//   - Nobody allocates cluster IPs or node ports here: a service must name its own.
package manifest
