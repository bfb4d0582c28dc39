package metrics

import (
	"bytes"
	"math"
)

// The parsers accept what the kernel writes and nothing else: each line ends
// in a newline, each number is plain decimal that fits. What falls short is
// ErrGarbled, for half a number is a wrong figure. They allocate nothing once
// they have seen a file.

// parseUint reads all of b as a decimal number.
func parseUint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		d := uint64(c - '0')
		if d > 9 || n > math.MaxUint64/10 || n*10 > math.MaxUint64-d {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// cutLine splits off the first line; ok is false if no newline ends it.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

// cutWord splits off the first word, skipping the blanks before it.
func cutWord(b []byte) (word, rest []byte) {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	i := bytes.IndexByte(b, ' ')
	if i < 0 {
		return b, nil
	}
	return b[:i], b[i+1:]
}

// parseSingle reads a file of one number: "123\n", "max\n" or "-1\n".
func parseSingle(b []byte) (uint64, error) {
	line, rest, ok := cutLine(b)
	if !ok || len(rest) > 0 {
		return 0, ErrGarbled
	}
	if string(line) == "max" || string(line) == "-1" {
		return Unlimited, nil
	}
	n, ok := parseUint(line)
	if !ok {
		return 0, ErrGarbled
	}
	return n, nil
}

// parseMax reads cpu.max: "50000 100000\n" or "max 100000\n".
func parseMax(b []byte) (quota, period uint64, err error) {
	line, rest, ok := cutLine(b)
	if !ok || len(rest) > 0 {
		return 0, 0, ErrGarbled
	}
	word, tail := cutWord(line)
	quota = Unlimited
	if string(word) != "max" {
		if quota, ok = parseUint(word); !ok {
			return 0, 0, ErrGarbled
		}
	}
	if period, ok = parseUint(tail); !ok {
		return 0, 0, ErrGarbled
	}
	return quota, period, nil
}

// key is a line of a keyed file that is wanted, and what becomes of it.
type key struct {
	name     string
	field    Field
	scale    uint64 // the number times this is the figure
	required bool
}

// keyed parses "key number\n" files (cpu.stat, memory.stat, memory.events,
// memory.oom_control) and /proc/meminfo's "key:   number kB\n". It learns
// which line holds which key, and checks the key again on each read.
type keyed struct {
	keys  []key
	must  uint64
	lines []learnt
	names names
}

type learnt struct {
	name string
	key  int8 // index into keys, or -1
}

// maxLines bounds what is learnt of a file; the kernel's longest has 150.
const maxLines = 512

func newKeyed(keys ...key) *keyed {
	k := &keyed{keys: keys, names: names{}}
	for i, key := range keys {
		if key.required {
			k.must |= 1 << i
		}
	}
	return k
}

// parse sets the figures of all wanted keys, or none and returns ErrGarbled.
func (k *keyed) parse(b []byte, into *figures) error {
	var seen uint64
	var values [64]uint64
	for i := 0; len(b) > 0; i++ {
		at, n, rest, ok := k.known(i, b)
		if !ok {
			if at, n, rest, ok = k.line(i, b); !ok {
				return ErrGarbled
			}
		}
		b = rest
		if at < 0 {
			continue
		}
		if seen&(1<<at) != 0 {
			return ErrGarbled
		}
		scale := k.keys[at].scale
		if n > math.MaxUint64/scale {
			return ErrGarbled
		}
		seen |= 1 << at
		values[at] = n * scale
	}
	if seen&k.must != k.must {
		return ErrGarbled
	}
	for i := range k.keys {
		if seen&(1<<i) != 0 {
			into.set(k.keys[i].field, values[i])
		}
	}
	return nil
}

// known reads a line that has the key that it had before, a blank and a number
// that fits; of others it says nothing. Most of the reader's own time goes here.
func (k *keyed) known(i int, b []byte) (at int8, n uint64, rest []byte, ok bool) {
	if i >= len(k.lines) {
		return 0, 0, nil, false
	}
	was := &k.lines[i]
	end := len(was.name)
	if len(b) <= end || b[end] != ' ' || string(b[:end]) != was.name {
		return 0, 0, nil, false
	}
	const fit = 19 // digits of any number
	b = b[end+1:]
	for j, c := range b {
		d := c - '0'
		if d > 9 {
			return was.key, n, b[j+1:], c == '\n' && j > 0 && j <= fit
		}
		n = n*10 + uint64(d)
	}
	return 0, 0, nil, false
}

// line reads any line; at is negative for one that is not wanted.
func (k *keyed) line(i int, b []byte) (at int8, n uint64, rest []byte, ok bool) {
	line, rest, ok := cutLine(b)
	if !ok {
		return 0, 0, nil, false
	}
	sep := bytes.IndexByte(line, ' ')
	if sep <= 0 {
		return 0, 0, nil, false
	}
	if at = k.lookup(i, line[:sep]); at < 0 {
		return at, 0, rest, true
	}
	word, unit := cutWord(line[sep+1:])
	n, ok = parseUint(word)
	return at, n, rest, ok && (unit == nil || string(unit) == "kB")
}

func (k *keyed) lookup(line int, name []byte) int8 {
	if line < len(k.lines) && string(name) == k.lines[line].name {
		return k.lines[line].key
	}
	at := int8(-1)
	for i := range k.keys {
		if string(name) == k.keys[i].name {
			at = int8(i)
			break
		}
	}
	switch {
	case line < len(k.lines):
		k.lines[line] = learnt{k.names.intern(name), at}
	case line == len(k.lines) && line < maxLines:
		k.lines = append(k.lines, learnt{k.names.intern(name), at})
	}
	return at
}

// parsePressure reads a PSI file into eight fields from first on:
//
//	some avg10=0.68 avg60=0.56 avg300=1.32 total=11367146
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
//
// The full line of cpu.pressure is missing before Linux 5.13.
func parsePressure(b []byte, first Field, into *figures) error {
	var values [8]uint64
	lines := 0
	for ; len(b) > 0; lines++ {
		line, rest, ok := cutLine(b)
		if !ok || lines == 2 {
			return ErrGarbled
		}
		b = rest
		word, tail := cutWord(line)
		if string(word) != [...]string{"some", "full"}[lines] {
			return ErrGarbled
		}
		// The order of the fields is the order of the words but for total.
		for i, name := range [...]string{"avg10=", "avg60=", "avg300=", "total="} {
			word, tail = cutWord(tail)
			if len(word) < len(name) || string(word[:len(name)]) != name {
				return ErrGarbled
			}
			number := word[len(name):]
			var n uint64
			if i == 3 {
				n, ok = parseUint(number)
			} else {
				n, ok = parseHundredths(number)
			}
			if !ok {
				return ErrGarbled
			}
			values[lines*4+(i+1)%4] = n
		}
		if tail != nil {
			return ErrGarbled
		}
	}
	if lines == 0 {
		return ErrGarbled
	}
	for i := range lines * 4 {
		into.set(first+Field(i), values[i])
	}
	return nil
}

// parseHundredths reads "1.32" as 132.
func parseHundredths(b []byte) (uint64, bool) {
	dot := len(b) - 3
	if dot < 1 || b[dot] != '.' {
		return 0, false
	}
	whole, ok := parseUint(b[:dot])
	part, ok2 := parseUint(b[dot+1:])
	if !ok || !ok2 || whole > 1000 {
		return 0, false
	}
	return whole*100 + part, true
}

// countLines counts the processes in cgroup.procs; each line is a number.
func countLines(b []byte) (n, first uint64, err error) {
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			return 0, 0, ErrGarbled
		}
		pid, ok := parseUint(line)
		if !ok || pid > math.MaxInt32 {
			return 0, 0, ErrGarbled
		}
		if n == 0 {
			first = pid
		}
		b = rest
		n++
	}
	return n, first, nil
}

// parseLoadavg returns the threads of the machine: 123 of
// "0.00 0.01 0.05 1/123 4567\n".
func parseLoadavg(b []byte) (uint64, error) {
	line, rest, ok := cutLine(b)
	if !ok || len(rest) > 0 {
		return 0, ErrGarbled
	}
	var word []byte
	for range 4 {
		word, line = cutWord(line)
	}
	slash := bytes.IndexByte(word, '/')
	if slash < 0 || line == nil {
		return 0, ErrGarbled
	}
	n, ok := parseUint(word[slash+1:])
	if !ok {
		return 0, ErrGarbled
	}
	return n, nil
}
