package crilog

import "time"

// Options says which part of a log is wanted. The zero value is all that the
// file holds now.
type Options struct {
	// Follow waits for more at the end of the file, until ctx ends or Done
	// says so.
	Follow bool
	// TailLines starts that many lines before the end. nil is the whole file,
	// 0 is nothing that is there already. Negative counts as nil.
	TailLines *int64
	// Since leaves out lines older than it. Zero leaves out none.
	Since time.Time
	// Timestamps puts the time of its first record and a space before each line.
	Timestamps bool
	// LimitBytes ends the output after so many bytes, times included, in the
	// midst of a line if need be. nil is no limit; negative counts as nil.
	LimitBytes *int64
	// Stream leaves out the other stream: Stdout or Stderr; "" is both. With
	// TailLines only lines of that stream are counted.
	Stream string
	// Done is asked at the end of the file while following: true says that the
	// container has exited and all it wrote is in the file, so that Read ends
	// once that is read. nil is never. It is called from the goroutine of Read.
	Done func() bool
	// MaxLine is the most text of one line, in bytes, that is held in memory
	// for each stream; a longer line is passed on in pieces, unharmed unless
	// the other stream writes in between. 0 is 256 KiB.
	MaxLine int
	// Poll is the longest wait between two looks at the file while following.
	// 0 is 250 ms. After new text the next look is taken sooner.
	Poll time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxLine <= 0 {
		o.MaxLine = 256 << 10
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	return o
}
