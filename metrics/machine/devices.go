package machine

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/cadvisor/lib/model"
)

// disks lists the block devices by "major:minor", without loop, ram and sr.
func (m *Machine) disks() map[string]model.DiskInfo {
	disks := map[string]model.DiskInfo{}
	for _, name := range m.list("/sys/block") {
		if hasPrefix(name, "loop", "ram", "sr") {
			continue
		}
		dir := filepath.Join("/sys/block", name)
		number := m.text(dir + "/dev")
		major, minor, ok := parseDev(number)
		if !ok {
			continue
		}
		const sector = 512 // whatever the device's own
		size, _ := m.number(dir + "/size")
		disks[number] = model.DiskInfo{
			Name: name, Major: major, Minor: minor, Size: size * sector,
			Scheduler: scheduler(m.text(dir + "/queue/scheduler")),
		}
	}
	return disks
}

// parseDev reads "253:0".
func parseDev(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, ok && err1 == nil && err2 == nil
}

// scheduler picks "mq-deadline" out of "none [mq-deadline] kyber".
func scheduler(s string) string {
	_, rest, ok := strings.Cut(s, "[")
	name, _, ok2 := strings.Cut(rest, "]")
	if !ok || !ok2 {
		return "none"
	}
	return name
}

func hasPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// networkDevices lists the interfaces, without lo and host ends of containers.
func (m *Machine) networkDevices() []model.NetInfo {
	devices := []model.NetInfo{}
	for _, name := range m.list("/sys/class/net") {
		dir := filepath.Join("/sys/class/net", name)
		mac := m.text(dir + "/address")
		if name == "lo" || hasPrefix(name, "veth", "docker", "nerdctl") || mac == "" {
			continue
		}
		d := model.NetInfo{Name: name, MacAddress: mac}
		if mtu, ok := m.number(dir + "/mtu"); ok {
			d.Mtu = int64(mtu)
		}
		// Reading it fails while the link is down; -1 is "unknown".
		if speed, err := strconv.ParseInt(m.text(dir+"/speed"), 10, 64); err == nil {
			d.Speed = speed
		}
		devices = append(devices, d)
	}
	return devices
}

// filesystems lists those on block devices, each device once, with their size.
func (m *Machine) filesystems() []model.FilesystemInfo {
	list := []model.FilesystemInfo{}
	seen := map[string]bool{}
	for _, mount := range parseMounts(m.text("/proc/self/mountinfo")) {
		if seen[mount.device] || hasPrefix(mount.device, "/dev/loop", "/dev/ram") {
			continue
		}
		seen[mount.device] = true
		capacity, inodes, err := size(filepath.Join("/", m.cfg.Root, mount.path))
		if err != nil {
			continue // unmounted meanwhile, or not for us to see
		}
		list = append(list, model.FilesystemInfo{
			Device: mount.device, DeviceMajor: mount.major, DeviceMinor: mount.minor,
			Capacity: capacity, Type: "vfs", Inodes: inodes, HasInodes: inodes > 0,
		})
	}
	return list
}

type mount struct {
	device, path string
	major, minor uint64
}

// parseMounts finds the mounts of block devices in /proc/self/mountinfo:
//
//	23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 2 || !strings.HasPrefix(right[1], "/dev/") {
			continue
		}
		major, minor, ok := parseDev(left[2])
		if !ok {
			continue
		}
		path := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(left[4])
		mounts = append(mounts, mount{right[1], path, major, minor})
	}
	return mounts
}
