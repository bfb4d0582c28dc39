package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// ErrClosed: the journal was closed.
var ErrClosed = errors.New("journal closed")

// ErrTooLarge: a key over 65,535 bytes or a value over 16 MiB.
var ErrTooLarge = errors.New("too large")

// Config of a Journal.
type Config struct {
	// Path of the file; required. Its directory is made if missing.
	Path string
	// Slack is how many superseded bytes may lie in the file before it is
	// rewritten; 0 means 1 MiB. It is also rewritten only when less than half of
	// it counts.
	Slack int64
	// KeepDamaged is how many copies of damaged files stay; 0 means 3.
	KeepDamaged int
}

// Found is what Open found.
type Found struct {
	// Records read, and keys that are set.
	Records, Keys int
	// Torn bytes at the end, as a crash leaves them; nothing is wrong with that.
	Torn int
	// Lost bytes of damage.
	Lost int
	// Quarantined is where the damaged file lies, or "".
	Quarantined string
	// Err is why the file could not be read, if that was the damage, or that the
	// disk is too full to write it anew.
	Err error
}

// Journal is a map on disk. Its methods may be used concurrently.
type Journal struct {
	config Config

	syncing sync.Mutex // held over fsync, before mu

	mu     sync.Mutex
	file   *os.File
	values map[string][]byte
	live   int64 // bytes that count
	size   int64 // bytes in the file
	synced int64
	broken bool  // the file's end is not known; rewrite it first
	spare  int64 // bytes that are kept for a rewrite on a full disk
}

// spareSuffix names the file that keeps room, spareRoom how much beyond what counts.
const (
	spareSuffix = ".spare"
	spareRoom   = 64 << 10
)

// Open reads the file, or makes it. Damage is no error: see Found.
func Open(config Config) (*Journal, Found, error) {
	if config.Path == "" {
		return nil, Found{}, errors.New("journal: Path is required")
	}
	if config.Slack <= 0 {
		config.Slack = 1 << 20
	}
	if config.KeepDamaged <= 0 {
		config.KeepDamaged = 3
	}
	j := &Journal{config: config, values: map[string][]byte{}}
	if err := os.MkdirAll(filepath.Dir(config.Path), 0o700); err != nil {
		return nil, Found{}, fmt.Errorf("make directory of journal: %w", err)
	}
	found, err := j.load()
	if err != nil {
		return nil, found, err
	}
	return j, found, nil
}

func (j *Journal) load() (Found, error) {
	var found Found
	data, err := os.ReadFile(j.config.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		found.Err = err
	}
	found.Lost, found.Torn = scan(data, func(r record) {
		found.Records++
		j.apply(r)
	})
	found.Keys = len(j.values)
	if found.Lost > 0 || found.Err != nil {
		if found.Quarantined, err = j.quarantine(); err != nil {
			return found, err
		}
	}
	sound := int64(len(data) - found.Torn)
	if err == nil && found.Lost == 0 && sound > 0 {
		file, err := os.OpenFile(j.config.Path, os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return found, fmt.Errorf("open journal: %w", err)
		}
		if found.Torn > 0 { // cut off where it stands, which a full disk allows too
			if err := file.Truncate(sound); err != nil {
				return found, fmt.Errorf("cut journal: %w", errors.Join(err, file.Close()))
			}
		}
		j.file, j.size, j.synced = file, sound, 0
		j.reserve()
		return found, nil
	}
	err = j.rewrite()
	if full(err) {
		// Everything is held, and written with the first Put or Sync that finds room.
		found.Err, err = errors.Join(found.Err, err), nil
	}
	return found, err
}

func (j *Journal) apply(r record) {
	if r.op != opPut && r.op != opDelete {
		return // of a later version, which must not cost what this one knows
	}
	if old, ok := j.values[r.key]; ok {
		j.live -= recordSize(r.key, old)
		delete(j.values, r.key)
	}
	if r.op == opPut {
		j.values[r.key] = r.value
		j.live += recordSize(r.key, r.value)
	}
}

// quarantine moves the damaged file aside under the first free number, and
// removes the oldest of too many.
func (j *Journal) quarantine() (string, error) {
	copies, err := filepath.Glob(globQuote(j.config.Path) + ".damaged-*")
	if err != nil {
		return "", fmt.Errorf("find damaged journals: %w", err)
	}
	slices.Sort(copies)
	number := 1
	if len(copies) > 0 {
		last := copies[len(copies)-1]
		if _, err := fmt.Sscanf(last[strings.LastIndexByte(last, '-')+1:], "%06d", &number); err == nil {
			number++
		}
	}
	for len(copies) >= j.config.KeepDamaged {
		if err := os.RemoveAll(copies[0]); err != nil {
			return "", fmt.Errorf("remove old damaged journal: %w", err)
		}
		copies = copies[1:]
	}
	name := fmt.Sprintf("%s.damaged-%06d", j.config.Path, number)
	if err := os.Rename(j.config.Path, name); err != nil {
		return "", fmt.Errorf("set damaged journal aside: %w", err)
	}
	return name, nil
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Get gives a copy of the value of key.
func (j *Journal) Get(key string) ([]byte, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	value, ok := j.values[key]
	return bytes.Clone(value), ok
}

// Keys gives the keys with a prefix, sorted.
func (j *Journal) Keys(prefix string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var keys []string
	for key := range j.values {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Put sets key to a copy of value. The same value again writes nothing.
func (j *Journal) Put(key string, value []byte) error {
	if len(key) > 1<<16-1 || 3+len(key)+len(value) > maxSize {
		return fmt.Errorf("put %.64q: %w", key, ErrTooLarge)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if old, ok := j.values[key]; ok && bytes.Equal(old, value) && !j.broken {
		return nil
	}
	return j.append(record{opPut, key, bytes.Clone(value)})
}

// Delete forgets key.
func (j *Journal) Delete(key string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.values[key]; !ok {
		return nil
	}
	return j.append(record{op: opDelete, key: key})
}

// append changes the map whatever happens to the file: a full disk must not
// make the agent forget what it knows.
func (j *Journal) append(r record) error {
	if j.file == nil && !j.broken {
		return ErrClosed
	}
	j.apply(r)
	if j.broken || j.size > j.config.Slack && j.size-j.live > j.config.Slack && j.live < j.size/2 {
		return j.rewrite()
	}
	n, err := j.file.Write(appendRecord(nil, r))
	if err != nil {
		j.broken = true
		err = fmt.Errorf("append to journal: %w", err)
		if full(err) && j.rewrite() == nil {
			return nil
		}
		return err
	}
	j.size += int64(n)
	return nil
}

// Sync makes everything put before durable. Concurrent calls share one fsync.
func (j *Journal) Sync() error {
	j.mu.Lock()
	target := j.size
	j.mu.Unlock()
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	if j.broken {
		defer j.mu.Unlock()
		return j.rewrite()
	}
	file, size := j.file, j.size
	if file == nil {
		j.mu.Unlock()
		return ErrClosed
	}
	if j.synced >= target && j.synced <= size {
		j.mu.Unlock()
		return nil
	}
	j.mu.Unlock()
	err := file.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != file {
		return nil // rewritten meanwhile, which syncs
	}
	if err != nil {
		// What the kernel dropped cannot be known: write all of it again.
		j.broken = true
		return fmt.Errorf("sync journal: %w", err)
	}
	j.synced = size
	return nil
}

// rewrite puts what counts into a new file in place of the old one.
func (j *Journal) rewrite() error {
	fail := func(err error) error {
		j.broken = true
		return fmt.Errorf("rewrite journal: %w", err)
	}
	keys := make([]string, 0, len(j.values))
	for key := range j.values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var data []byte
	for _, key := range keys {
		data = appendRecord(data, record{opPut, key, j.values[key]})
	}
	file, err := j.replace(j.config.Path+".new", data, os.O_CREATE|os.O_TRUNC)
	if full(err) && int64(len(data)) <= j.spare {
		j.spare = 0
		file, err = j.replace(j.config.Path+spareSuffix, data, 0)
	}
	if err != nil {
		return fail(err)
	}
	if j.file != nil {
		_ = j.file.Close() // it is not the journal any more
	}
	j.file, j.size, j.synced, j.live, j.broken = file, int64(len(data)), int64(len(data)), int64(len(data)), false
	j.reserve()
	return nil
}

// replace puts a file of data in place of the journal. Nothing is left of it if
// that cannot be.
func (j *Journal) replace(path string, data []byte, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|flags, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(data) // over what is there, which needs no room
	if err == nil {
		err = file.Truncate(int64(len(data)))
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(path, j.config.Path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.config.Path))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.RemoveAll(path))
	}
	return file, nil
}

// reserve keeps room on the disk for one more rewrite, should it be full: what frees
// it may have to be noted first. Without room there is none.
func (j *Journal) reserve() {
	want := j.live + spareRoom
	if j.spare >= j.live+spareRoom/2 {
		return
	}
	path := j.config.Path + spareSuffix
	j.spare = 0
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() >= want {
		j.spare = info.Size() // of an agent before
		return
	}
	if err := os.WriteFile(path, make([]byte, want), 0o600); err != nil {
		_ = os.Remove(path) // it would only take room
		return
	}
	j.spare = want
}

// full tells of errors for want of room.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Close syncs and closes. The Journal cannot be used after it.
func (j *Journal) Close() error {
	err := j.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = false
	if j.file == nil {
		return err
	}
	err = errors.Join(err, j.file.Close())
	j.file = nil
	return err
}
