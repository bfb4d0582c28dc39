package iptables

import (
	"errors"
	"fmt"
)

// ErrNotSupported is what Open gives where there is no iptables: on other
// systems than Linux, without its tools, or in a kernel without its tables.
var ErrNotSupported = errors.New("iptables is not supported")

// ToolError is a tool of iptables that failed.
type ToolError struct {
	Tool   string // such as ip6tables-restore
	Output string // at most 2,000 bytes of what it said
	Err    error
}

func (e *ToolError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Tool, e.Err, e.Output) }

func (e *ToolError) Unwrap() error { return e.Err }
