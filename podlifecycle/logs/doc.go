// Package logs keeps the log files of containers in bounds and makes them easy to
// find: rotation, and links in one directory as /var/log/containers has them.
//
//	rotated, err := logs.Rotate(ctx, path, logs.Policy{}, time.Now(),
//		func(ctx context.Context) error { return runtime.ReopenLog(ctx, id) })
//	err = logs.Link("/var/log/containers", logs.LinkName(pod, namespace, container, id), path)
//
// A log that has grown to 10 MiB is moved aside under the time of day, and the
// container goes on in a new file; the one before it is compressed with gzip, and
// of all files of a log the newest five stay:
//
//	0.log  0.log.20260102-150405  0.log.20260102-143000.gz ...
//
// Names, numbers and order are the kubelet's, so that collectors of logs know them.
// A process that is killed at any point loses no line: what it left half done the
// next call completes or removes.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/logs/container_log_manager.go and
// pkg/kubelet/kuberuntime/legacy.go.
//
// # Traps
//
//   - One caller at a time for one log.
//   - A log that is no regular file is somebody else's to rotate, and left alone.
//   - Only files with a time of day after the log's name are taken for rotated ones.
package logs
