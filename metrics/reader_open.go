package metrics

import "strconv"

// How the files of cgroups are found, opened, kept and read.

// nearby is the directory of the cgroup that is read now, in one hierarchy.
type nearby struct {
	files int   // that are to be opened there
	dir   int32 // -1 for not open
	same  bool  // it is the one that was read before
	leaf  bool  // it has none below
}

// worthDir is how many files make it cheaper to open their directory first than
// to walk to each of them.
const worthDir = 3

// join makes a path that ends in a zero byte, in room that the next join uses
// again. Empty parts are left out.
func (r *reader) join(parts ...string) []byte {
	b := r.path[:0]
	for _, p := range parts {
		if p == "" {
			continue
		}
		if len(b) > 0 {
			b = append(b, '/')
		}
		b = append(b, p...)
	}
	r.path = append(b, 0)
	return r.path
}

// joinPID makes the path of a file of a process, as join does.
func (r *reader) joinPID(pid int, file string) []byte {
	b := append(r.path[:0], r.proc...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(pid), 10)
	b = append(b, '/')
	b = append(b, file...)
	r.path = append(b, 0)
	return r.path
}

// keepRoots keeps the roots of the hierarchies open, so that a path begins
// there; without one it is walked from /.
func (r *reader) keepRoots() {
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		if _, ok := r.roots[src.root]; !ok {
			dir, err := sysOpenDir(atCwd, r.join(src.root))
			if err != nil {
				dir = atCwd
			}
			r.roots[src.root] = dir
		}
		src.dir = r.roots[src.root]
	}
}

func (r *reader) releaseRoots() {
	for root, dir := range r.roots {
		if dir != atCwd {
			sysClose(dir)
		}
		delete(r.roots, root)
	}
	for i := range r.plan.sources {
		r.plan.sources[i].dir = atCwd
	}
}

// read is readAt for a path that begins at /.
func (r *reader) read(path []byte, fd *int32, pages bool) ([]byte, error) {
	return r.readAt(atCwd, path, fd, pages)
}

// readAt returns the text of a file, good until the next read. With fd it reads
// the descriptor there, and keeps a new one there while the budget lasts.
func (r *reader) readAt(dir int32, path []byte, fd *int32, pages bool) ([]byte, error) {
	open := int32(-1)
	if fd != nil {
		open = *fd
	}
	if open < 0 {
		var err error
		if open, err = sysOpen(dir, path); err != nil {
			return nil, err
		}
		if fd != nil && r.keep && r.kept < r.budget {
			*fd = open
			r.kept++
		} else {
			defer sysClose(open)
		}
	}
	got := 0
	for {
		n, err := sysRead(open, r.buf[got:], int64(got))
		if err != nil {
			return nil, err
		}
		got += n
		switch {
		case got == len(r.buf):
			// Perhaps more: with more room, from the start, so that the text
			// is of one moment.
			r.buf = make([]byte, 2*len(r.buf))
			got = 0
		case n == 0 || !pages:
			return r.buf[:got], nil
		}
	}
}

// keepable is how many sources are kept open now.
func (r *reader) keepable() int {
	if r.rich {
		return r.plan.keepable
	}
	return r.plan.hot
}

// release closes what a cgroup keeps.
func (r *reader) release(h *handle) {
	r.releaseFrom(h, 0)
	h.absent, h.dir, h.sums = 0, 0, [numSums]uint64{}
}

func (r *reader) releaseFrom(h *handle, first int) {
	for i := first; i < len(h.fds); i++ {
		if fd := h.fds[i]; fd >= 0 {
			sysClose(fd)
			r.kept--
		}
		h.fds[i] = -1
	}
}

// arrive counts what will have to be opened of a cgroup.
func (r *reader) arrive(h *handle, want groupSet) {
	for i := range r.near {
		r.near[i] = nearby{dir: -1}
	}
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		switch {
		case i < len(h.fds) && h.fds[i] >= 0:
			// Reading a hot one, which comes first, tells if its cgroup is gone.
			if src.hot {
				r.near[src.tree].same = true
			}
		case want.has(src.group) && h.absent&(1<<i) == 0:
			r.near[src.tree].files++
		}
	}
}

func (r *reader) leave() {
	for i := range r.near {
		if r.near[i].dir >= 0 {
			sysClose(r.near[i].dir)
		}
		r.near[i] = nearby{dir: -1}
	}
}

// find gives where a file of a cgroup is opened from, and its path from there.
func (r *reader) find(src *source, rel string, h *handle) (dir int32, path []byte, err error) {
	root := src.root
	if src.dir != atCwd {
		root = ""
	}
	near := &r.near[src.tree]
	if near.files < worthDir || rel == "" {
		return src.dir, r.join(root, rel, src.name), nil
	}
	if near.dir < 0 {
		if near.dir, err = sysOpenDir(src.dir, r.join(root, rel)); err != nil {
			return 0, nil, err
		}
		if src.tree == r.plan.summing {
			r.recognize(near, h)
		}
	}
	return near.dir, r.join(src.name), nil
}

// recognize tells whether an open directory is the one of before: the number of
// a cgroup's inode is not given to another for as long as it can count. Each
// directory below is a link to it (kernfs_refresh_inode of fs/kernfs/inode.c).
func (r *reader) recognize(near *nearby, h *handle) {
	inode, links, err := sysDir(near.dir, r.room)
	if err != nil {
		return
	}
	near.same = near.same || inode == h.dir
	near.leaf = links <= 2
	h.dir = inode
}
