package podlifecycle

import (
	"bytes"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Limits of termination messages, Kubernetes v1.37.0 pkg/kubelet/container
// MaxContainerTerminationMessageLength and its siblings.
const (
	messageSize     = 4 << 10
	messageLogSize  = 2 << 10
	messageLogLines = 80
)

// terminationMessage gives the last words of a container that exited: its
// message file, or the end of its log if it failed and asked for that.
func terminationMessage(c runtimeiface.Container) string {
	if path := c.Annotations[AnnotationMessagePath]; path != "" {
		if text := readHead(path, messageSize); len(text) > 0 {
			return string(bytes.ToValidUTF8(text, []byte("\uFFFD")))
		}
	}
	if c.ExitCode == 0 || c.LogPath == "" ||
		c.Annotations[AnnotationMessagePolicy] != string(corev1.TerminationMessageFallbackToLogsOnError) {
		return ""
	}
	// Each line of a log stands behind a time, a stream and a tag.
	return string(bytes.ToValidUTF8(lastLines(readTail(c.LogPath, messageLogSize+messageLogLines*64)), []byte("\uFFFD")))
}

func readHead(path string, limit int64) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil
	}
	return text
}

func readTail(path string, limit int64) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	start := max(0, info.Size()-limit)
	text := make([]byte, info.Size()-start)
	n, err := file.ReadAt(text, start)
	if err != nil && n == 0 {
		return nil
	}
	text = text[:n]
	if start > 0 { // begin at a whole line
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	return text
}

// lastLines takes the texts of the last records of a CRI log:
//
//	2016-10-06T00:17:09.669794202Z stdout F the text
func lastLines(log []byte) []byte {
	records := bytes.Split(bytes.TrimSuffix(log, []byte("\n")), []byte("\n"))
	records = records[max(0, len(records)-messageLogLines):]
	var out []byte
	for _, r := range records {
		fields := bytes.SplitN(r, []byte(" "), 4)
		if len(fields) < 4 {
			continue
		}
		out = append(out, fields[3]...)
		if string(fields[2]) == "F" {
			out = append(out, '\n')
		}
	}
	return out[max(0, len(out)-messageLogSize):]
}
