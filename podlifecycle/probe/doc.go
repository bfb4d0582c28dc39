// Package probe asks containers whether they have started, live and are ready:
// by command, HTTP, TCP or gRPC. Prober makes one attempt; Manager makes them
// all in time and turns them into verdicts.
//
//	prober, err := probe.NewProber(probe.ProberConfig{Exec: runtime})
//	probes, err := probe.New(probe.Config{Prober: prober, Changed: func(c probe.Change) {
//		wake(c.PodUID) // look again: probes.Result(c.ContainerID, c.Kind)
//	}})
//	go probes.Run(ctx)
//
//	probes.Set(probe.Pod{UID: pod.UID, Host: "10.88.0.7", Containers: []probe.Running{
//		{Container: &pod.Spec.Containers[0], ID: id, StartedAt: startedAt},
//	}})
//	ready, ok := probes.Result(id, probe.Readiness)
//
// Behaviour is the kubelet's of Kubernetes v1.37.0 (pkg/kubelet/prober,
// pkg/probe). What it does not do is to act on a verdict: killing and reporting
// are the caller's.
//
// # Rules
//
//   - Before a verdict a container is not ready, lives, and nobody knows whether it has
//     started. Liveness and readiness wait for a startup probe.
//   - A verdict needs as many equal results in a row as its threshold says. An attempt that
//     could not be made (a command that cannot be run, a port that has no
//     name) is no result at all; it is tried three times and then dropped.
//   - After a startup or liveness failure, and after a startup success, a probe rests: the
//     verdict of that container is final.
//   - The first attempt comes at StartedAt + initialDelaySeconds. Only containers that ran
//     before the Manager did are first probed at a random moment within a period.
//
// # Traps
//
//   - Verdicts belong to a container's ID. Give an earlier run's verdicts as
//     Running.Seed, or every ready pod is unready until its first success.
//   - The pod has been defaulted; a probe's zero numbers are taken as the API's defaults.
package probe
