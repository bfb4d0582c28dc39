package metrics_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// workEnv makes this test binary a worker: it does the work that the variable
// names, once for each line on its standard input, and answers with a line.
const workEnv = "NODEKIT_METRICS_WORK"

func doWork(string) int {
	in := bufio.NewScanner(os.Stdin)
	var kept [][]byte
	for in.Scan() {
		word, arg, _ := strings.Cut(in.Text(), " ")
		n, _ := strconv.ParseInt(arg, 10, 64)
		switch word {
		case "burn": // nanoseconds of CPU time, answers with its whole CPU time
			until := cpuTime() + n
			for cpuTime() < until {
			}
			fmt.Println(cpuTime())
		case "touch": // bytes of anonymous memory
			b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
			for i := 0; i < len(b); i += os.Getpagesize() {
				b[i] = 1
			}
			kept = append(kept, b)
			fmt.Println(len(kept))
		case "direct": // bytes to a file, past the page cache
			size, path, _ := strings.Cut(arg, " ")
			n, _ := strconv.ParseInt(size, 10, 64)
			if err := writeDirect(path, n); err != nil {
				fmt.Println(err)
				return 1
			}
			fmt.Println(n)
		case "sockets": // opens that many, and keeps them
			for range n {
				if _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
					fmt.Println(err)
					return 1
				}
			}
			fmt.Println(n)
		case "cpu":
			fmt.Println(cpuTime())
		}
	}
	return 0
}

// writeDirect overwrites a file that is there.
func writeDirect(path string, n int64) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// What mmap gives is aligned, as O_DIRECT wants it.
	block, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	for at := int64(0); at < n; at += int64(len(block)) {
		if m, err := unix.Pwrite(fd, block, at); err != nil || m != len(block) {
			return fmt.Errorf("wrote %d of %d: %w", m, len(block), err)
		}
	}
	return nil
}

// cpuTime is the CPU time of this process in ns, to the ns.
func cpuTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// worker is a process that works in a cgroup of its own.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startWorker starts one that is in the cgroup before it runs its first
// instruction, in a new network namespace if asked for.
func startWorker(cg *cgroup, newNet bool) *worker {
	GinkgoHelper()
	// A shell moves itself first and becomes the worker then: v1 has no
	// CLONE_INTO_CGROUP.
	script := ""
	for _, dir := range cg.dirs() {
		script += "echo $$ > " + dir + "/cgroup.procs && "
	}
	exe, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.Command("/bin/sh", "-c", script+"exec "+exe)
	// One CPU and no collector: the worker is to use what it was told to use.
	cmd.Env = append(os.Environ(), workEnv+"=1", "GOMAXPROCS=1", "GOGC=off")
	cmd.Stderr = GinkgoWriter
	if newNet {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	in, err := cmd.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	out, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	w := &worker{cmd, in, bufio.NewReader(out)}
	DeferCleanup(w.stop)
	w.do("cpu 0") // it runs
	return w
}

// do has the worker do something, and returns its answer.
func (w *worker) do(what string) int64 {
	GinkgoHelper()
	_, err := fmt.Fprintln(w.in, what)
	Expect(err).NotTo(HaveOccurred())
	line, err := w.out.ReadString('\n')
	Expect(err).NotTo(HaveOccurred())
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	Expect(err).NotTo(HaveOccurred())
	return n
}

// stop ends the worker, once.
func (w *worker) stop() {
	_ = w.in.Close()
	_ = w.cmd.Wait()
}

// cgroup is a cgroup of a test's own in every hierarchy.
type cgroup struct {
	path  string   // below each root
	roots []string // of the hierarchies
}

// hierarchies are the mounted ones, by the words of /proc/self/mountinfo.
func hierarchies() []string {
	GinkgoHelper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	Expect(err).NotTo(HaveOccurred())
	var roots []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		before, after, _ := strings.Cut(line, " - ")
		_ = before
		if strings.HasPrefix(after, "cgroup") && !strings.Contains(after, "name=") && !strings.Contains(after, "cpuset") {
			roots = append(roots, words[4])
		}
	}
	Expect(roots).NotTo(BeEmpty())
	return roots
}

// newCgroup makes one, and removes it at the end of the test.
func newCgroup(path string) *cgroup {
	GinkgoHelper()
	cg := &cgroup{path: path, roots: hierarchies()}
	DeferCleanup(cg.remove)
	for _, dir := range cg.dirs() {
		Expect(os.MkdirAll(dir, 0o755)).To(Succeed())
		if filepath.Dir(cg.path) != "/" {
			delegate(filepath.Dir(dir))
		}
	}
	return cg
}

// delegate gives the cgroups below dir the controllers that dir has, which v2
// wants to be asked for.
func delegate(dir string) {
	GinkgoHelper()
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return // v1
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		Expect(os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)).To(Succeed())
	}
}

// uniquePath is a path that no other run has.
func uniquePath() string {
	return fmt.Sprintf("/nodekit-metrics-test-%d-%d", os.Getpid(), time.Now().UnixNano())
}

func (c *cgroup) dirs() []string {
	dirs := make([]string, 0, len(c.roots))
	for _, root := range c.roots {
		dirs = append(dirs, filepath.Join(root, c.path))
	}
	return dirs
}

// remove removes it, once its processes have ended.
func (c *cgroup) remove() {
	GinkgoHelper()
	for _, dir := range c.dirs() {
		Eventually(func() error {
			if err := unix.Rmdir(dir); err != unix.ENOENT {
				return err
			}
			return nil
		}).Should(Succeed(), dir)
	}
}
