package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRecordsOfNewDirectoriesAreNotReplaced(t *testing.T) {
	dir := t.TempDir()
	lasting, err := WriteNew(dir, "record", []byte("first"))
	if err == nil {
		err = lasting()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteNew(dir, "record", []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second record: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "record")); err != nil || string(data) != "first" {
		t.Errorf("got %q, %v", data, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left beside it: %v", entries)
	}
}

func TestMarksAreSeenAtOnceAndLast(t *testing.T) {
	dir := t.TempDir()
	lasting, err := mark(dir, "mark")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "mark")); err != nil || info.Size() != 0 {
		t.Errorf("not there: %v", err)
	}
	for range 2 {
		if err := lasting(); err != nil {
			t.Error(err)
		}
	}
	if _, err := mark(filepath.Join(dir, "none"), "mark"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
}

func TestNothingStartsBeforeTheMarksLast(t *testing.T) {
	broken := errors.New("disk is broken")
	fine := func() error { return nil }
	fail := func() error { return broken }
	for _, marks := range [][2]func() error{{fail, fine}, {fine, fail}} {
		s := &server{containers: map[string]*container{}, lasting: marks[0]}
		s.containers["a"] = &container{CreateRequest: CreateRequest{ID: "a", Runtime: "/none"}, lasting: marks[1]}
		err := s.start("a")
		if err == nil || !strings.Contains(err.Error(), broken.Error()) || !s.containers["a"].started.IsZero() {
			t.Errorf("got %v", err)
		}
	}
}
