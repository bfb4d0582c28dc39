package eviction

import corev1 "k8s.io/api/core/v1"

// Pod is a candidate: a pod that was let in, has not ended and is not ending.
type Pod struct {
	Pod *corev1.Pod
	// Usage, nil if it is not known.
	Usage *Usage
}

// Usage is what a pod uses now.
type Usage struct {
	// Memory is the working set of the pod's cgroup in bytes, Processes how many
	// it has.
	Memory, Processes int64
	// Containers of which something is known, in order of the specification.
	Containers []ContainerUsage
	// Volumes by name: those whose files lie on the node's disk and go with the pod.
	Volumes map[string]Disk
}

// ContainerUsage is what one container uses.
type ContainerUsage struct {
	Name string
	// Memory is the working set in bytes.
	Memory int64
	// RootFS is its writable layer, Logs are all its log files.
	RootFS, Logs Disk
}

// Disk is what files take up.
type Disk struct{ Bytes, Inodes int64 }

// Plus gives the sum.
func (d Disk) Plus(other Disk) Disk { return Disk{d.Bytes + other.Bytes, d.Inodes + other.Inodes} }

// parts says what of a pod lies on the file system in question.
type parts struct{ root, logs, volumes bool }

func partsOf(signal Signal, dedicated bool) parts {
	switch {
	case !dedicated:
		return parts{true, true, true}
	case signal == ImageFSAvailable || signal == ImageFSInodes:
		return parts{root: true}
	}
	return parts{logs: true, volumes: true}
}

func (u *Usage) disk(p parts) Disk {
	sum := Disk{}
	for _, c := range u.Containers {
		if p.root {
			sum = sum.Plus(c.RootFS)
		}
		if p.logs {
			sum = sum.Plus(c.Logs)
		}
	}
	if p.volumes {
		for _, v := range u.Volumes {
			sum = sum.Plus(v)
		}
	}
	return sum
}
