package shim

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// death is how and when a child ended.
type death struct {
	status syscall.WaitStatus
	at     time.Time
}

func (d death) code() int {
	if d.status.Signaled() {
		return 128 + int(d.status.Signal())
	}
	return d.status.ExitStatus()
}

// A reaper starts and reaps every child. No pid that it gave is used by another
// process before it told of the death.
type reaper struct {
	mu      sync.Mutex
	waiters map[int]chan<- death
	// early holds deaths of children that nobody has claimed, while somebody
	// may: the child of an OCI runtime can end before its pid file is read.
	early    map[int]death
	claimers int
}

func newReaper() *reaper {
	return &reaper{waiters: map[int]chan<- death{}, early: map[int]death{}}
}

// fork starts a program with the descriptors given as its 0, 1, 2 and so on.
func (r *reaper) fork(path string, argv []string, files []uintptr) (int, <-chan death, error) {
	return r.forkIn(&syscall.SysProcAttr{}, path, argv, []string{"PATH=" + os.Getenv("PATH")}, files)
}

// forkIn is fork in new namespaces.
func (r *reaper) forkIn(sys *syscall.SysProcAttr, path string, argv, env []string, files []uintptr) (int, <-chan death, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: files, Sys: sys,
	})
	if err != nil {
		return 0, nil, err
	}
	return pid, r.wait(pid), nil
}

// wait registers for a child's death. Called with mu held.
func (r *reaper) wait(pid int) <-chan death {
	done := make(chan death, 1)
	if d, ok := r.early[pid]; ok {
		delete(r.early, pid)
		done <- d
	} else {
		r.waiters[pid] = done
	}
	return done
}

// claim begins a time in which adopt finds children that have died already.
func (r *reaper) claim() {
	r.mu.Lock()
	r.claimers++
	r.mu.Unlock()
}

func (r *reaper) unclaim() {
	r.mu.Lock()
	if r.claimers--; r.claimers == 0 {
		clear(r.early)
	}
	r.mu.Unlock()
}

// adopt gives the death of a child that an OCI runtime made.
func (r *reaper) adopt(pid int) <-chan death {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wait(pid)
}

// stray tells that nobody waits for a child, nor may be about to but the one who
// asks with a claim.
func (r *reaper) stray(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, awaited := r.waiters[pid]
	return !awaited && r.claimers == 1
}

// kill signals a child that has not been reaped; others are left alone.
func (r *reaper) kill(pid int, signal syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiters[pid]; ok {
		_ = unix.Kill(pid, signal)
	}
}

// holding calls f while a child is not reaped, so that its pid is its own; for
// others it gives errExited.
func (r *reaper) holding(pid int, f func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiters[pid]; !ok {
		return errExited
	}
	return f()
}

// reap collects the dead at each SIGCHLD.
func (r *reaper) reap(sigchld <-chan os.Signal) {
	for range sigchld {
		for r.reapOne() {
		}
	}
}

func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	d := death{status, time.Now()}
	if done, ok := r.waiters[pid]; ok {
		delete(r.waiters, pid)
		done <- d
	} else if r.claimers > 0 {
		r.early[pid] = d
	}
	return true
}
