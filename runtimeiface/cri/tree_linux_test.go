// Package cri, not cri_test: the parser of /proc is not exported.
package cri

import (
	"os"
	"testing"
	"time"
)

func TestProcessesInProc(t *testing.T) {
	before := ticks(time.Now())
	self, ok := readProcess(os.Getpid())
	if !ok || self.parent != os.Getppid() || len(self.command) != len(os.Args) || self.started <= 0 || self.started > before+100 {
		t.Errorf("this process is %+v", self)
	}
}

func TestExecRoots(t *testing.T) {
	words := []string{"/a", "b"}
	all := map[int]process{
		10: {10, 1, 100, words},          // the container's first process
		20: {20, 1, 200, words},          // the command
		21: {21, 20, 210, words},         // its child
		22: {22, 21, 211, nil},           // and its child's
		30: {30, 1, 300, words},          // a later one with the same words
		40: {40, 1, 150, words},          // one from before the call
		50: {50, 1, 205, []string{"/a"}}, // another command
	}
	root, ok := execRoot(all, 10, words, 160)
	if !ok || root.pid != 20 {
		t.Errorf("root is %+v", root)
	}
	if got := descendants(all, root); len(got) != 3 {
		t.Errorf("tree is %+v", got)
	}
	if _, ok := execRoot(all, 10, []string{"/none"}, 0); ok {
		t.Error("a command that is not there was found")
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("4711 (a ) name) S 1 4711 4711 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 12345 1 1"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		_, _ = parseStat(stat)
	})
	p, ok := parseStat([]byte("4711 (a ) name) S 17 4711 4711 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 12345 1 1"))
	if !ok || p.parent != 17 || p.started != 12345 {
		f.Errorf("parsed %+v", p)
	}
}
