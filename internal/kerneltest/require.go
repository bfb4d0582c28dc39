package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A Need is something a test cannot do without.
type Need string

// The needs that tests of this module declare.
const (
	Root     Need = "root"     // effective user 0 on Linux
	Nft      Need = "nft"      // the nft tool
	Iptables Need = "iptables" // the iptables-restore tool
	// IptablesLegacy is the iptables-legacy tools, and a kernel with ip_tables.
	IptablesLegacy Need = "iptables-legacy"
	Cgroup         Need = "cgroup"   // a mounted, writable cgroup hierarchy
	Cgroup2        Need = "cgroup2"  // a mounted cgroup v2 hierarchy, with or without controllers
	Devices        Need = "devices"  // the devices hierarchy of cgroup v1
	Unified        Need = "unified"  // cgroup v2 with all controllers, and no v1
	Overlay        Need = "overlay"  // the overlay file system
	Runc           Need = "runc"     // runc in PATH
	Crun           Need = "crun"     // crun in PATH
	Systemd        Need = "systemd"  // systemd as the first process
	Shim           Need = "shim"     // nodekit-shim in PATH
	Chromium       Need = "chromium" // headless Chromium in PATH
	// Containerd is containerd in PATH, with its shim and, in folder cni beside
	// it, the CNI plug-ins bridge, loopback, host-local and portmap.
	Containerd Need = "containerd"
	// CNI is the CNI plug-ins bridge, loopback, host-local and portmap in folder
	// cni of a directory in PATH; see CNIBinDir.
	CNI Need = "cni"
	// DBus is dbus-daemon in PATH.
	DBus Need = "dbus-daemon"
	// Fanotify is that cgroups have a file system identity, which fanotify wants
	// (Linux 6.6).
	Fanotify Need = "fanotify"
	// AppArmor is a kernel that enforces profiles, and apparmor_parser in PATH.
	AppArmor Need = "apparmor"
	// Loop is loop devices, the file system ext2, and mkfs.ext2 in PATH.
	Loop Need = "loop"
	// OpenFiles is a kernel that gives the number of a process's open files as the
	// size of /proc/PID/fd: Linux 6.2.
	OpenFiles Need = "open-files"
)

// TB is what Require needs of a testing.TB or a GinkgoT().
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Name() string
}

// Require skips tb when a need is absent, or fails it when NODEKIT_REQUIRE
// lists that need.
func Require(tb TB, needs ...Need) {
	tb.Helper()
	for _, need := range needs {
		err := check(need)
		if err == nil {
			continue
		}
		if required(need) {
			tb.Fatalf("need %s is required but absent: %v", need, err)
		}
		tb.Skipf("need %s is absent: %v", need, err)
	}
}

func required(need Need) bool {
	list := strings.Split(os.Getenv("NODEKIT_REQUIRE"), ",")
	return slices.Contains(list, string(need)) || slices.Contains(list, "all")
}

func check(need Need) error {
	if os.Getenv("NODEKIT_NEEDS") == "none" {
		return fmt.Errorf("NODEKIT_NEEDS=none")
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%s is not linux", runtime.GOOS)
	}
	switch need {
	case Root:
		if os.Geteuid() != 0 {
			return fmt.Errorf("effective user is %d", os.Geteuid())
		}
		return nil
	case Cgroup:
		return cgroupWritable()
	case Cgroup2:
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil {
			return err
		}
		if !strings.Contains(string(mounts), " cgroup2 ") {
			return fmt.Errorf("cgroup2 is not in /proc/mounts")
		}
		return nil
	case Devices:
		_, err := os.Stat("/sys/fs/cgroup/devices")
		return err
	case Unified:
		_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
		return err
	case Overlay:
		data, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err
		}
		if !strings.Contains(string(data), "overlay") {
			return fmt.Errorf("overlay is not in /proc/filesystems")
		}
		return nil
	case Systemd:
		_, err := os.Stat("/run/systemd/system")
		return err
	case Iptables:
		return inPath("iptables-restore")
	case OpenFiles:
		st, err := os.Stat("/proc/self/fd")
		if err == nil && st.Size() == 0 {
			err = fmt.Errorf("the size of /proc/self/fd is 0")
		}
		return err
	case AppArmor:
		if text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || text[0] != 'Y' {
			return fmt.Errorf("the kernel has it not enabled (%v)", err)
		}
		return inPath("apparmor_parser")
	case Loop:
		if _, err := os.Stat("/dev/loop-control"); err != nil {
			return err
		}
		if text, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(text), "\text2\n") {
			return fmt.Errorf("the kernel has no ext2 (%v)", err)
		}
		return inPath("mkfs.ext2")
	case Fanotify:
		return cgroupIdentity()
	case IptablesLegacy:
		if _, err := os.Stat("/proc/net/ip_tables_names"); err != nil {
			return err
		}
		return inPath("iptables-legacy-restore")
	case Shim:
		return inPath("nodekit-shim")
	case CNI:
		_, err := CNIBinDir()
		return err
	default:
		return inPath(string(need))
	}
}

// CNIBinDir gives the folder cni of a directory in PATH that has the plug-ins.
func CNIBinDir() (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		dir = filepath.Join(dir, "cni")
		missing := slices.ContainsFunc([]string{"bridge", "loopback", "host-local", "portmap"}, func(plugin string) bool {
			_, err := os.Stat(filepath.Join(dir, plugin))
			return err != nil
		})
		if !missing {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no directory in PATH has a folder cni with the plug-ins")
}

func inPath(tool string) error {
	_, err := exec.LookPath(tool)
	return err
}

func cgroupWritable() error {
	for _, dir := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		info, err := os.Stat(dir + "/cgroup.procs")
		if err != nil {
			continue
		}
		if info.Mode().Perm()&0o200 == 0 || os.Geteuid() != 0 {
			return fmt.Errorf("%s is not writable", dir)
		}
		return nil
	}
	return fmt.Errorf("no cgroup hierarchy is mounted below /sys/fs/cgroup")
}
