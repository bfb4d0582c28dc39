package metrics

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// filesystems asks each file system on a block device how full it is, and learns
// how cgroups are mounted.
func (r *reader) filesystems(s *Sample) error {
	text, err := r.read(r.join(r.proc, "self/mountinfo"), nil, true)
	r.sumsEvents = err == nil && !bytes.Contains(text, []byte("memory_localevents"))
	if err != nil {
		return err
	}
	// Few mounts change, and it is seldom read, so it may allocate.
	var first error
	err = eachBlockMount(text, func(device, path string) {
		for i := range s.Filesystems {
			if s.Filesystems[i].Device == device {
				return
			}
		}
		one := Filesystem{Device: device, Path: path}
		if err := sysStatfs(&one); err == nil {
			s.Filesystems = append(s.Filesystems, one)
		} else if first == nil {
			first = err
		}
	})
	if err == nil {
		err = first
	}
	return err
}

// eachBlockMount finds the mounts of devices in /proc/PID/mountinfo, without
// images in loops, which are always full:
//
//	23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
func eachBlockMount(b []byte, f func(device, path string)) error {
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			return ErrGarbled
		}
		b = rest
		before, after, ok := bytes.Cut(line, []byte(" - "))
		if !ok {
			return ErrGarbled
		}
		_, after = cutWord(after)
		device, _ := cutWord(after)
		if !bytes.HasPrefix(device, []byte("/dev/")) || bytes.HasPrefix(device, []byte("/dev/loop")) {
			continue
		}
		var path []byte
		for range 5 {
			path, before = cutWord(before)
		}
		if len(path) == 0 {
			return ErrGarbled
		}
		f(string(device), unescape(string(path)))
	}
	return nil
}

// nodePages reads /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages and
// free_hugepages.
func (r *reader) nodePages(s *Sample) error {
	for _, size := range r.pageSizes {
		dir := r.sys + "/kernel/mm/hugepages/hugepages-" + strconv.FormatUint(size>>10, 10) + "kB"
		var n [2]uint64
		for i, name := range [...]string{"nr_hugepages", "free_hugepages"} {
			text, err := r.read(r.join(dir, name), nil, false)
			if err != nil {
				return err
			}
			if n[i], err = parseSingle(text); err != nil {
				return err
			}
			if n[i] > Unlimited/size {
				return ErrGarbled
			}
		}
		s.HugePages = append(s.HugePages, HugePages{Size: size, Used: (n[0] - min(n[0], n[1])) * size, Total: n[0] * size})
	}
	return nil
}

// pageSizes lists the sizes of huge pages in bytes, the order that of names.
func pageSizes(sys string) []uint64 {
	const most = 8 // x86 has two, arm64 four
	entries, err := os.ReadDir(sys + "/kernel/mm/hugepages")
	if err != nil {
		return nil // a kernel without
	}
	var sizes []uint64
	for _, e := range entries {
		kB, ok := strings.CutPrefix(e.Name(), "hugepages-")
		kB, ok2 := strings.CutSuffix(kB, "kB")
		if n, err := strconv.ParseUint(kB, 10, 40); ok && ok2 && err == nil && n > 0 && len(sizes) < most {
			sizes = append(sizes, n<<10)
		}
	}
	return sizes
}
