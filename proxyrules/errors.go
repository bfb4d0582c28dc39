package proxyrules

import "fmt"

// A Problem is something in the input that was left out or done in a simpler
// way than asked for. The rest of the Service, and every other Service, works.
type Problem struct {
	Service string `json:"service"` // namespace/name
	Field   string `json:"field"`   // path in the object, such as spec.ports[0].nodePort
	Reason  string `json:"reason"`
}

// String reads "service default/web: spec.ports[0].nodePort: taken by default/api".
func (p Problem) String() string {
	return fmt.Sprintf("service %s: %s: %s", p.Service, p.Field, p.Reason)
}

// PacketError says which part of a packet description cannot be read.
type PacketError struct {
	Field  string // from, to or proto
	Value  string // at most 100 bytes of what was given
	Reason string
}

func (e *PacketError) Error() string {
	return fmt.Sprintf("packet field %s: %q: %s", e.Field, e.Value, e.Reason)
}
