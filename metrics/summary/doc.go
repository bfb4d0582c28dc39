// Package summary turns the samples of a metrics.Meter into the kubelet's
// Summary API, k8s.io/kubelet/pkg/apis/stats/v1alpha1, as /stats/summary
// serves it.
//
//	p, err := summary.New(summary.Config{Meter: meter, NodeName: "n1", NodeFS: "/var/lib/nodekit"})
//	if err != nil {
//		return err
//	}
//	s, err := p.Summary(ctx, false)
//
// What is not known stays nil, as the API means it: a node without swap
// accounting has no swap figures, and a container in its first interval no
// usageNanoCores. Containers that have exited are left out, as by the kubelet;
// metrics.Meter.Samples still has them. Writable layers and logs are what
// metrics.Config.OnDisk tells; a pod has ephemeral-storage if it tells of the
// pod's own files and of both of each of its containers, for a sum with a part
// missing would be a wrong figure. Volumes are what Config.Volumes tells, for which
// VolumeAt asks a volume's file system:
//
//	v, err := summary.VolumeAt("cache", dir, metrics.DiskUse{Bytes: bytes, Inodes: inodes, At: time.Now()})
package summary
