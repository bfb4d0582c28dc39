package proxyrules

import (
	"iter"
	"slices"
)

// chunkSize is how many pointers of a list are copied where one is another.
const chunkSize = 256

// list is a sequence of pointers that shares with the one that it was made from
// what stands at the same place. It is never changed once made.
type list[T any] struct {
	chunks [][]*T // full but for the last
	size   int
}

// newList makes a list of items, which it does not keep.
func newList[T any](old list[T], items []*T) list[T] {
	l := list[T]{size: len(items), chunks: make([][]*T, 0, (len(items)+chunkSize-1)/chunkSize)}
	for chunk := range slices.Chunk(items, chunkSize) {
		if i := len(l.chunks); i < len(old.chunks) && slices.Equal(old.chunks[i], chunk) {
			l.chunks = append(l.chunks, old.chunks[i])
		} else {
			l.chunks = append(l.chunks, slices.Clone(chunk))
		}
	}
	return l
}

func (l list[T]) at(i int) *T { return l.chunks[i/chunkSize][i%chunkSize] }

func (l list[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, chunk := range l.chunks {
			for _, item := range chunk {
				if !yield(item) {
					return
				}
			}
		}
	}
}

// items is all of them in a slice of its own.
func (l list[T]) items() []*T { return slices.Concat(l.chunks...) }

// same says whether both share all they have.
func (l list[T]) same(o list[T]) bool {
	return l.size == o.size && slices.EqualFunc(l.chunks, o.chunks, func(a, b []*T) bool { return &a[0] == &b[0] })
}

// change is one place of a sorted list at which something goes, comes before
// what stands there, or is replaced.
type change[T any] struct {
	at   int
	drop bool
	new  T // the zero value: nothing comes
}

// spliced is the list with changes, which are sorted by place. Where all replace
// something, it costs what differs.
func (l list[T]) spliced(changes []change[*T]) list[T] {
	if len(changes) == 0 {
		return l
	}
	if slices.ContainsFunc(changes, func(c change[*T]) bool { return !c.drop || c.new == nil }) {
		return newList(l, l.moved(changes))
	}
	l.chunks = slices.Clone(l.chunks)
	fresh := -1
	for _, c := range changes {
		i := c.at / chunkSize
		if i != fresh {
			l.chunks[i], fresh = slices.Clone(l.chunks[i]), i
		}
		l.chunks[i][c.at%chunkSize] = c.new
	}
	return l
}

// moved is all items after changes.
func (l list[T]) moved(changes []change[*T]) []*T {
	old := l.items()
	out := make([]*T, 0, len(old)+len(changes))
	from := 0
	for _, c := range changes {
		out = append(out, old[from:c.at]...)
		from = c.at
		if c.new != nil {
			out = append(out, c.new)
		}
		if c.drop {
			from++
		}
	}
	return append(out, old[from:]...)
}

// difference tells which objects are only in old, and which only in new. It is
// cheap where most stand at the same place. Nil objects do not count.
func difference[T any](old, new list[T]) (gone, come []*T) {
	if old.size == new.size {
		for i, chunk := range new.chunks {
			if before := old.chunks[i]; &before[0] != &chunk[0] {
				for k := range chunk {
					if before[k] != chunk[k] {
						gone, come = append(gone, before[k]), append(come, chunk[k])
					}
				}
			}
		}
	} else {
		from := 0
		for from < len(old.chunks) && from < len(new.chunks) && slices.Equal(old.chunks[from], new.chunks[from]) {
			from++
		}
		gone, come = slices.Concat(old.chunks[from:]...), slices.Concat(new.chunks[from:]...)
		for len(gone) > 0 && len(come) > 0 && gone[0] == come[0] {
			gone, come = gone[1:], come[1:]
		}
		for len(gone) > 0 && len(come) > 0 && gone[len(gone)-1] == come[len(come)-1] {
			gone, come = gone[:len(gone)-1], come[:len(come)-1]
		}
	}
	// What only moved is in both.
	counts := make(map[*T]int, len(gone))
	for _, o := range gone {
		counts[o]++
	}
	come = slices.DeleteFunc(come, func(n *T) bool {
		if n == nil || counts[n] > 0 {
			counts[n]--
			return true
		}
		return false
	})
	gone = slices.DeleteFunc(gone, func(o *T) bool {
		if o == nil || counts[o] <= 0 {
			return true
		}
		counts[o]--
		return false
	})
	return gone, come
}
