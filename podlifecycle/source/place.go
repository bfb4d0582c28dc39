package source

import (
	"bytes"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// place is one place that is read as a whole: a URL, a stream.
type place struct {
	origin origin
	name   string

	objects  manifest.Objects
	problems []manifest.Problem
	spoken   bool
}

// take reads a document anew. What it has wrong keeps what was known before.
func (p *place) take(data []byte) {
	decoded, problems := manifest.Decode(p.name, bytes.NewReader(data))
	p.replace(decoded, problems)
}

func (p *place) replace(decoded manifest.Objects, problems []manifest.Problem) {
	old := p.objects
	var more []manifest.Problem
	p.objects, more = p.origin.accept(p.name, p.name, decoded)
	p.problems = append(problems, more...)
	if len(p.problems) > 0 {
		keep(&p.objects, old)
	}
	p.spoken = true
}

// fail keeps all that was known and tells why nothing newer is.
func (p *place) fail(err error) {
	p.problems = []manifest.Problem{{File: p.name, Err: err}}
}

func (p *place) set() Set {
	var out collector
	out.set.Problems = append(out.set.Problems, p.problems...)
	if len(p.problems) > 0 {
		out.set.Broken = []string{p.name}
	}
	if !p.spoken {
		out.set.Waiting = []string{p.name}
	}
	out.add(p.name, p.objects)
	return out.set
}
