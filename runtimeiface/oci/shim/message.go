package shim

import (
	"encoding/binary"
	"errors"
	"io"
)

// Limits of a message.
const (
	MaxMessage = 256 << 10
	maxFields  = 4096
)

// ErrMessage says that bytes are not a message, or too many.
var ErrMessage = errors.New("shim: malformed message")

// Operations. An answer has the Seq of its request and is OpOK, or OpFail with
// the cause as its only field. Events have Seq 0.
const (
	OpOK   = "ok"
	OpFail = "fail"

	OpSetup    = "setup"    // hostname, then sysctls as name, value
	OpCommit   = "commit"   // makes the sandbox lasting
	OpWatch    = "watch"    // answers the state, then events follow on this connection
	OpPause    = "pause"    // see PauseRequest; answers the pid
	OpTarget   = "target"   // id; answers the path of that container's PID namespace
	OpCreate   = "create"   // see CreateRequest
	OpStart    = "start"    // id; EventStart or EventExit come before the answer
	OpRun      = "run"      // see RunRequest; EventCreate and all others come before the answer
	OpUpdate   = "update"   // id, the OCI resources in JSON
	OpStop     = "stop"     // id, grace in nanoseconds; answers at once
	OpRemove   = "remove"   // id; answers when all is gone
	OpReopen   = "reopen"   // id
	OpResize   = "resize"   // id, width, height
	OpForward  = "forward"  // port; the answer brings a connection to it
	OpShutdown = "shutdown" // ends all containers and the shim

	// On a connection of their own, whose end ends them. They answer twice: when
	// all is set up, and at the end.

	// OpExec: id, or id and "tty". It brings the OCI process document, then the
	// command's three streams, or for a terminal what takes the complaints of
	// the OCI runtime; then the first answer brings the terminal. The second
	// one holds the exit code.
	OpExec = "exec"
	// OpAttach: id, and of the letters "i", "o" and "e" one for each stream that
	// it brings a pipe's end for, in their order.
	OpAttach = "attach"

	// Exited and Unknown are causes of an OpFail that a caller may want to know.
	Exited  = "container has exited"
	Unknown = "unknown container"
	// Crowded is another, of OpAttach.
	Crowded = "too many clients are attached"
	// RunFailed is the third field of OpRun's OpFail, after the cause and the ID
	// of the container, if the containers were made.
	RunFailed = "start"

	EventCreate = "created" // id, pid; only with OpRun
	EventStart  = "started" // id, Unix nanoseconds, pid
	EventExit   = "exit"    // see Exit
)

// A Message is a request, an answer or an event: on the wire a length of four
// bytes (little endian), Seq in four, then each string with its length.
type Message struct {
	Seq    uint32
	Op     string
	Fields []string
}

// Field is the i-th field, or "".
func (m Message) Field(i int) string {
	if i < len(m.Fields) {
		return m.Fields[i]
	}
	return ""
}

// Append appends the message in its wire form. ErrMessage: it is too large.
func (m Message) Append(dst []byte) ([]byte, error) {
	begin := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, m.Seq)
	dst = appendString(dst, m.Op)
	for _, f := range m.Fields {
		dst = appendString(dst, f)
	}
	size := len(dst) - begin - 4
	if size > MaxMessage || len(m.Fields) > maxFields {
		return dst[:begin], ErrMessage
	}
	binary.LittleEndian.PutUint32(dst[begin:], uint32(size))
	return dst, nil
}

// Fits tells whether a message with these is within the limits.
func Fits(op string, fields ...string) bool {
	size := 8 + len(op)
	for _, f := range fields {
		size += 4 + len(f)
	}
	return size <= MaxMessage && len(fields) <= maxFields
}

func appendString(dst []byte, s string) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// ReadMessage reads one message. It fails with io.EOF only between messages.
func ReadMessage(r io.Reader) (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Message{}, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size < 8 || size > MaxMessage {
		return Message{}, ErrMessage
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	return parseMessage(body)
}

func parseMessage(body []byte) (Message, error) {
	m := Message{Seq: binary.LittleEndian.Uint32(body)}
	body = body[4:]
	for i := 0; len(body) > 0; i++ {
		if len(body) < 4 || i > maxFields {
			return Message{}, ErrMessage
		}
		n := binary.LittleEndian.Uint32(body)
		body = body[4:]
		if uint64(n) > uint64(len(body)) {
			return Message{}, ErrMessage
		}
		s := string(body[:n])
		body = body[n:]
		if i == 0 {
			m.Op = s
		} else {
			m.Fields = append(m.Fields, s)
		}
	}
	return m, nil
}
