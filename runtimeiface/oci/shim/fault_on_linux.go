//go:build faultpoints

package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// FaultDirEnv names the directory in which a kill test and what it kills meet.
const FaultDirEnv = "NODEKIT_FAULTS"

var faults struct {
	mu   sync.Mutex
	dir  string
	hits map[string]int
}

func faultPoint(name string) { FaultPoint("shim", name) }

// FaultPoint is in builds for kill tests only. It appends ROLE/NAME#N to the
// file log of the directory, where N counts in this process, and does what the
// file plan says, once:
//
//	ROLE/NAME#N: VICTIM   kill VICTIM, the last process of that role, at the point
//	ROLE/*#N: VICTIM      at the Nth point of all
func FaultPoint(role, name string) {
	dir := os.Getenv(FaultDirEnv)
	if dir == "" {
		return
	}
	faults.mu.Lock()
	defer faults.mu.Unlock()
	if faults.dir != dir {
		faults.dir, faults.hits = dir, map[string]int{}
		_ = os.WriteFile(filepath.Join(dir, role), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	at := func(name string) string {
		faults.hits[name]++
		return role + "/" + name + "#" + strconv.Itoa(faults.hits[name])
	}
	point, any := at(name), at("*")
	if log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		_, _ = log.WriteString(point + "\n")
		_ = log.Close()
	}
	plan, _ := os.ReadFile(filepath.Join(dir, "plan"))
	where, victim, _ := strings.Cut(string(plan), ": ")
	if where != point && where != any {
		return
	}
	if os.Rename(filepath.Join(dir, "plan"), filepath.Join(dir, "done")) == nil {
		killVictim(dir, victim)
	}
}

// killVictim returns when the victim is dead.
func killVictim(dir, victim string) {
	data, _ := os.ReadFile(filepath.Join(dir, victim))
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		return // there is none yet
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	for range 2000 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) || bytes.Contains(stat, []byte(") X ")) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
