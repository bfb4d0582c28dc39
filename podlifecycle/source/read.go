package source

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// file is what is known of one file.
type file struct {
	// sum of the content last read, and readErr why it could not be.
	sum     [sha256.Size]byte
	readErr string
	// objects are the new good ones, and old ones that a problem may hide.
	objects  manifest.Objects
	problems []manifest.Problem
}

// read looks at all files and tells whether anything differs from last time.
func (d *Directory) read() (Set, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := errorText(d.dirProblem)
	names, err := manifestNames(d.config.Path)
	d.dirProblem = err
	d.spoken = d.spoken || err == nil || errors.Is(err, fs.ErrNotExist)
	changed := before != errorText(err)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		for name := range d.files {
			if !slices.Contains(names, name) {
				delete(d.files, name)
				changed = true
			}
		}
	}
	for _, name := range names {
		changed = d.readFile(name) || changed
	}
	return d.set(), changed
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// manifestNames lists what may be manifests, sorted.
func manifestNames(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || !manifestName(name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(path, name)); err == nil && info.IsDir() {
			continue // a link to a directory
		}
		names = append(names, name)
	}
	return names, nil
}

// manifestName tells a manifest from what editors leave beside it.
func manifestName(name string) bool {
	return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "#") && !strings.HasSuffix(name, "~") &&
		!strings.HasSuffix(name, ".swp") && !strings.HasSuffix(name, ".swx")
}

// readFile brings one file up to date and tells whether it changed.
func (d *Directory) readFile(name string) bool {
	known := d.files[name]
	data, err := readRegular(filepath.Join(d.config.Path, name))
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(filepath.Join(d.config.Path, name)); errors.Is(lerr, fs.ErrNotExist) {
			delete(d.files, name) // gone since the directory was listed
			return known != nil
		}
		// A link to nothing.
	}
	next := &file{sum: sha256.Sum256(data), readErr: errorText(err)}
	if known != nil && known.sum == next.sum && known.readErr == next.readErr {
		return false
	}
	if err != nil {
		next.problems = []manifest.Problem{{File: name, Err: err}}
	} else {
		decoded, problems := manifest.Decode(name, bytes.NewReader(data))
		next.objects, next.problems = d.origin.accept(name, filepath.Join(d.root, name), decoded)
		next.problems = append(problems, next.problems...)
		if known != nil && len(bytes.TrimSpace(data)) == 0 && !known.empty() {
			// Most likely cut short by a writer that will go on.
			next.problems = append(next.problems, manifest.Problem{File: name, Err: ErrEmptied})
		}
	}
	if len(next.problems) > 0 && known != nil {
		keep(&next.objects, known.objects)
	}
	d.files[name] = next
	return true
}

// empty tells whether nothing is known from the file.
func (f *file) empty() bool {
	o := f.objects
	return len(o.Pods)+len(o.ConfigMaps)+len(o.Secrets)+len(o.Services)+len(o.EndpointSlices) == 0
}

func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("is no regular file but %s", info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// One byte more than Decode takes, for it to refuse.
	return io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
}

// keep adds to objects what old has and it has not.
func keep(objects *manifest.Objects, old manifest.Objects) {
	objects.Pods = merge(objects.Pods, old.Pods)
	objects.ConfigMaps = merge(objects.ConfigMaps, old.ConfigMaps)
	objects.Secrets = merge(objects.Secrets, old.Secrets)
	objects.Services = merge(objects.Services, old.Services)
	objects.EndpointSlices = merge(objects.EndpointSlices, old.EndpointSlices)
}

func merge[T metav1.Object](objects, old []T) []T {
	for _, o := range old {
		if !slices.ContainsFunc(objects, func(have T) bool { return sameName(have, o) }) {
			objects = append(objects, o)
		}
	}
	return objects
}

func sameName[T metav1.Object](a, b T) bool {
	return a.GetName() == b.GetName() && a.GetNamespace() == b.GetNamespace()
}

// set makes one of all files, without what is twice in it.
func (d *Directory) set() Set {
	var out collector
	if d.dirProblem != nil {
		out.set.Problems = append(out.set.Problems, manifest.Problem{File: d.config.Path, Err: d.dirProblem})
		out.set.Broken = append(out.set.Broken, ".")
		if !d.spoken {
			out.set.Waiting = []string{d.config.Path}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[name]
		if len(f.problems) > 0 {
			out.set.Broken = append(out.set.Broken, name)
		}
		out.set.Problems = append(out.set.Problems, f.problems...)
		out.add(name, f.objects)
	}
	return out.set
}
