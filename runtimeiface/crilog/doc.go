// Package crilog reads and writes container logs in the format of CRI:
//
//	2016-10-06T00:17:09.669794202Z stdout P first half,
//	2016-10-06T00:17:09.669794203Z stdout F  second half
//
// Time, stream, tags, text. The tag P says that the line goes on in the next
// record of the same stream, F that it is full. Runtimes write such a file per
// container; agents read it for `kubectl logs`.
//
//	err := crilog.Read(ctx, path, crilog.Options{
//		Follow:    true,
//		TailLines: ptr.To[int64](100),
//		Done:      func() bool { return !running() },
//	}, stdout, stderr)
//
// A writer appends records to a buffer of its own:
//
//	buf = crilog.AppendLine(buf[:0], time.Now(), crilog.Stdout, false, line)
//
// What it is not: it does not rotate files, knows no container and no runtime,
// and reads no Docker JSON logs.
//
// The promises are those of Kubernetes v1.37.0 pkg/kubelet/kuberuntime/logs,
// with four differences that a person who reads logs wants. TailLines counts
// lines of the program, not records, so that a long line is one line. Parts of
// a line are joined even when the other stream wrote between them. A file that
// was rotated while following is read to its end before the new one is begun.
// A damaged record is skipped, also when it is the first.
//
// Traps: rotated files are not read back, only the file at path. Two rotations
// within one poll (at most a quarter of a second) while following, or while
// the writer is blocked, lose the file in between.
//
// The package imports the standard library only, so that a small program that
// writes logs can use it.
package crilog
