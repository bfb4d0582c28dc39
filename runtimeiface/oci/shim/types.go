package shim

import (
	"strconv"
	"strings"
	"time"
)

// Files in a sandbox's directory.
const (
	SocketName    = "sock"      // the shim's socket
	LockName      = "lock"      // flock held: the shim lives
	CommittedName = "committed" // the sandbox was given to a caller
	// ContainersDir holds a directory for each container, its OCI bundle.
	ContainersDir = "containers"
	// GroupsDir holds a mark for each group of containers that was made whole.
	GroupsDir = "groups"
)

// Files in a container's directory, beside config.json.
const (
	CreatedName = "created"   // the container was made whole
	StartedName = "started"   // when, in Unix nanoseconds
	ExitName    = "exit.json" // an ExitRecord
	pidName     = "pid"
)

// CreateRequest is what OpCreate needs to know of a container.
type CreateRequest struct {
	ID string
	// Runtime is the path of the OCI runtime, RuntimeRoot its --root.
	Runtime, RuntimeRoot string
	// RuntimeArgs stand before its command.
	RuntimeArgs []string
	// LogDir and LogPath below it; LogPath "" keeps no log.
	LogDir, LogPath string
	// StopSignal is a number.
	StopSignal int
	// TrackDir is the container's directory in the hierarchy that is used to
	// find its processes; TrackPrefix stands before a sub-cgroup in the
	// runtime's --cgroup ("freezer:", or "" for v2).
	TrackDir, TrackPrefix string
	// OOMFile holds the line "oom_kill N": memory.oom_control or memory.events.
	OOMFile string
	// Sweep kills what is left in TrackDir when the first process ends, for
	// containers that have no PID namespace of their own.
	Sweep bool
	// Stdin gives a pipe that stays open instead of one at its end, StdinOnce ends it
	// when the first client does, TTY gives a terminal instead of pipes.
	Stdin, StdinOnce, TTY bool
	// ExecCgroup: the OCI runtime can start an exec in a sub-cgroup.
	ExecCgroup bool
}

// createFields are those before RuntimeArgs.
const createFields = 14

// Fields is the request in wire form.
func (r CreateRequest) Fields() []string {
	return append([]string{
		r.ID, r.Runtime, r.RuntimeRoot, r.LogDir, r.LogPath, strconv.Itoa(r.StopSignal),
		r.TrackDir, r.TrackPrefix, r.OOMFile, strconv.FormatBool(r.Sweep), strconv.FormatBool(r.Stdin),
		strconv.FormatBool(r.StdinOnce), strconv.FormatBool(r.TTY), strconv.FormatBool(r.ExecCgroup),
	}, r.RuntimeArgs...)
}

func parseCreate(f []string) (CreateRequest, error) {
	if len(f) < createFields || !validID(f[0]) {
		return CreateRequest{}, ErrMessage
	}
	signal, err := strconv.Atoi(f[5])
	if err != nil {
		return CreateRequest{}, ErrMessage
	}
	return CreateRequest{
		ID: f[0], Runtime: f[1], RuntimeRoot: f[2], LogDir: f[3], LogPath: f[4],
		StopSignal: signal, TrackDir: f[6], TrackPrefix: f[7], OOMFile: f[8],
		Sweep: f[9] == "true", Stdin: f[10] == "true", StdinOnce: f[11] == "true", TTY: f[12] == "true",
		ExecCgroup: f[13] == "true", RuntimeArgs: f[createFields:],
	}, nil
}

// PauseRequest is what OpPause needs to know. It makes a process in a new PID
// namespace, or gives the one that was made before. With mappings, the process
// is ID 0 of a new user namespace that owns new network, IPC and UTS namespaces
// too, set up as OpSetup does; else there is nothing to set up.
type PauseRequest struct {
	UIDs, GIDs []IDMapping
	Hostname   string
	Sysctls    []string // names and values by turns
}

// IDMapping has Size IDs from Host on stand for those from Container on.
type IDMapping struct {
	Container, Host, Size uint32
}

// Fields is the request in wire form.
func (r PauseRequest) Fields() []string {
	return append([]string{joinMappings(r.UIDs), joinMappings(r.GIDs), r.Hostname}, r.Sysctls...)
}

func parsePause(m Message) (r PauseRequest, err error) {
	if len(m.Fields) == 0 {
		return r, nil
	}
	if len(m.Fields)%2 != 1 || len(m.Fields) < 3 {
		return r, ErrMessage
	}
	r.UIDs, err = splitMappings(m.Fields[0])
	if err == nil {
		r.GIDs, err = splitMappings(m.Fields[1])
	}
	r.Hostname, r.Sysctls = m.Fields[2], m.Fields[3:]
	return r, err
}

// joinMappings gives "inside:outside:size" for each, with spaces between.
func joinMappings(list []IDMapping) string {
	var b []byte
	for i, m := range list {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendUint(b, uint64(m.Container), 10)
		b = strconv.AppendUint(append(b, ':'), uint64(m.Host), 10)
		b = strconv.AppendUint(append(b, ':'), uint64(m.Size), 10)
	}
	return string(b)
}

func splitMappings(text string) ([]IDMapping, error) {
	var out []IDMapping
	for _, item := range strings.Fields(text) {
		parts := strings.Split(item, ":")
		if len(parts) != 3 {
			return nil, ErrMessage
		}
		var n [3]uint32
		for i, part := range parts {
			id, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				return nil, ErrMessage
			}
			n[i] = uint32(id)
		}
		out = append(out, IDMapping{Container: n[0], Host: n[1], Size: n[2]})
	}
	if len(out) == 0 {
		return nil, ErrMessage
	}
	return out, nil
}

// RunRequest is what OpRun needs to know.
type RunRequest struct {
	// Group names the mark, in GroupsDir, with which all of Create begin to count.
	Group string
	// Create are made, with Start they are started. Start are there already.
	Create []CreateRequest
	Start  []string
}

// Fields is the request in wire form.
func (r RunRequest) Fields() []string {
	fields := []string{r.Group, strconv.Itoa(len(r.Create))}
	for _, c := range r.Create {
		create := c.Fields()
		fields = append(append(fields, strconv.Itoa(len(create))), create...)
	}
	return append(fields, r.Start...)
}

func parseRun(f []string) (RunRequest, error) {
	if len(f) < 2 || !validID(f[0]) {
		return RunRequest{}, ErrMessage
	}
	r := RunRequest{Group: f[0]}
	count, err := strconv.Atoi(f[1])
	f = f[2:]
	if err != nil || count < 0 || count > len(f) {
		return r, ErrMessage
	}
	for range count {
		if len(f) == 0 {
			return r, ErrMessage
		}
		size, err := strconv.Atoi(f[0])
		if err != nil || size < 0 || size >= len(f) {
			return r, ErrMessage
		}
		c, err := parseCreate(f[1 : 1+size])
		if err != nil {
			return r, err
		}
		r.Create, f = append(r.Create, c), f[1+size:]
	}
	r.Start = f
	return r, nil
}

func validID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return id != ""
}

// Exit is how a container ended.
type Exit struct {
	ID string
	// Code is the process's own, or 128+n when signal n ended it.
	Code int
	// OOM: the kernel killed a process of the container for memory.
	OOM bool
	// StartError is why the program could not be run.
	StartError string
	At         time.Time
}

// ExitRecord is the JSON form of an Exit in ExitName.
type ExitRecord struct {
	Code       int    `json:"code"`
	OOM        bool   `json:"oom"`
	StartError string `json:"startError,omitempty"`
	UnixNano   int64  `json:"unixNano"`
	// Unknown: nobody saw the exit. An agent writes that for a dead shim.
	Unknown bool `json:"unknown,omitempty"`
}

func (e Exit) record() []byte {
	b := append([]byte(nil), `{"code":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `,"oom":`...)
	b = strconv.AppendBool(b, e.OOM)
	b = append(b, `,"unixNano":`...)
	b = strconv.AppendInt(b, e.At.UnixNano(), 10)
	if e.StartError != "" {
		b = append(b, `,"startError":`...)
		b = appendJSON(b, e.StartError)
	}
	return append(b, "}\n"...)
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s { // bytes that are not UTF-8 become U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// Fields is the exit in wire form.
func (e Exit) Fields() []string {
	return []string{
		e.ID, strconv.Itoa(e.Code), strconv.FormatBool(e.OOM), e.StartError,
		strconv.FormatInt(e.At.UnixNano(), 10),
	}
}

// ParseExit reads the fields of EventExit.
func ParseExit(m Message) (Exit, error) {
	code, err := strconv.Atoi(m.Field(1))
	nano, err2 := strconv.ParseInt(m.Field(4), 10, 64)
	if err != nil || err2 != nil || m.Field(0) == "" {
		return Exit{}, ErrMessage
	}
	return Exit{
		ID: m.Field(0), Code: code, OOM: m.Field(2) == "true", StartError: m.Field(3), At: time.Unix(0, nano),
	}, nil
}

// Live is what a shim tells of a container that has not ended.
type Live struct {
	ID      string
	PID     int // 0: the OCI runtime has not made it
	Started time.Time
}

const liveFields = 3

func (l Live) fields() []string {
	nano := int64(0)
	if !l.Started.IsZero() {
		nano = l.Started.UnixNano()
	}
	return []string{l.ID, strconv.Itoa(l.PID), strconv.FormatInt(nano, 10)}
}

// ParseState reads the answer to OpWatch: the containers that have not ended.
func ParseState(m Message) ([]Live, error) {
	if len(m.Fields)%liveFields != 0 {
		return nil, ErrMessage
	}
	var out []Live
	for i := 0; i < len(m.Fields); i += liveFields {
		pid, err := strconv.Atoi(m.Fields[i+1])
		nano, err2 := strconv.ParseInt(m.Fields[i+2], 10, 64)
		if err != nil || err2 != nil {
			return nil, ErrMessage
		}
		l := Live{ID: m.Fields[i], PID: pid}
		if nano != 0 {
			l.Started = time.Unix(0, nano)
		}
		out = append(out, l)
	}
	return out, nil
}
