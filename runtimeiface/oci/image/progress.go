package image

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A board gathers the progress of one pull from the flights of its layers.
type board struct {
	ref     string
	layers  []v1.Descriptor
	flights []*flight // nil for a layer that is here
	tell    func(Progress)
	last    Progress
}

func newBoard(ref string, layers []v1.Descriptor, tell func(Progress)) *board {
	return &board{ref: ref, layers: layers, flights: make([]*flight, len(layers)), tell: tell}
}

// report tells if anything has changed.
func (b *board) report() {
	p := b.look()
	if p.Phase == PhaseDone {
		// Done is told by finish alone: a layer may still turn out wrong.
		p.Phase = PhaseUnpacking
	}
	b.send(p)
}

// finish tells that all is done.
func (b *board) finish() { b.send(b.look()) }

func (b *board) send(p Progress) {
	if b.tell == nil {
		return
	}
	if p.Phase == b.last.Phase && p.Done == b.last.Done && slices.Equal(p.Layers, b.last.Layers) {
		return
	}
	b.last = p
	p.Layers = slices.Clone(p.Layers)
	b.tell(p)
}

func (b *board) look() Progress {
	p := Progress{Ref: b.ref, Phase: PhaseDone, Layers: make([]LayerProgress, len(b.layers))}
	for i, desc := range b.layers {
		l := LayerProgress{Digest: desc.Digest.String(), Phase: PhaseDone, Done: desc.Size, Total: desc.Size}
		if f := b.flights[i]; f != nil {
			// Phase before bytes: a layer told as unpacking has all its bytes.
			l.Phase = *f.phase.Load()
			l.Done = min(f.done.Load(), desc.Size)
		}
		p.Done += l.Done
		p.Total += l.Total
		p.Layers[i] = l
		switch l.Phase {
		case PhaseWaiting, PhaseDownloading:
			p.Phase = PhaseDownloading
		case PhaseUnpacking:
			if p.Phase == PhaseDone {
				p.Phase = PhaseUnpacking
			}
		}
	}
	return p
}
