package metrics

import (
	"bytes"
	"math"
)

// names keeps one string for each name that occurs in kernel text, so that
// reading the same name again allocates nothing.
type names map[string]string

func (n names) intern(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	if len(n) >= 1<<14 {
		clear(n)
	}
	s := string(b)
	n[s] = s
	return s
}

// parseDevice reads "253:0".
func parseDevice(b []byte) (major, minor uint32, ok bool) {
	colon := bytes.IndexByte(b, ':')
	if colon < 0 {
		return 0, 0, false
	}
	ma, ok1 := parseUint(b[:colon])
	mi, ok2 := parseUint(b[colon+1:])
	if !ok1 || !ok2 || ma > math.MaxUint32 || mi > math.MaxUint32 {
		return 0, 0, false
	}
	return uint32(ma), uint32(mi), true
}

// device finds or adds a device.
func device(devices []Device, major, minor uint32) ([]Device, *Device) {
	for i := range devices {
		if devices[i].Major == major && devices[i].Minor == minor {
			return devices, &devices[i]
		}
	}
	devices = append(devices, Device{Major: major, Minor: minor})
	return devices, &devices[len(devices)-1]
}

// parseBlkio reads a v1 blkio file into the devices' bytes or counts:
//
//	253:0 Read 1048576
//	253:0 Write 0
//	...
//	Total 1048576
func parseBlkio(b []byte, devices []Device, counts bool) ([]Device, error) {
	ended := false
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok || ended {
			return devices, ErrGarbled
		}
		b = rest
		word, tail := cutWord(line)
		if string(word) == "Total" {
			if _, ok := parseUint(tail); !ok {
				return devices, ErrGarbled
			}
			ended = true
			continue
		}
		major, minor, ok := parseDevice(word)
		if !ok {
			return devices, ErrGarbled
		}
		word, tail = cutWord(tail)
		n, ok := parseUint(tail)
		if !ok {
			return devices, ErrGarbled
		}
		var d *Device
		devices, d = device(devices, major, minor)
		for op := range numOps {
			if string(word) != op.String() {
				continue
			}
			if counts {
				d.count[op], d.hasCount = n, d.hasCount|1<<op
			} else {
				d.bytes[op], d.hasBytes = n, d.hasBytes|1<<op
			}
		}
	}
	if !ended {
		return devices, ErrGarbled
	}
	return devices, nil
}

// sameCounts says whether the same devices have counted the same.
func sameCounts(a, b []Device) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Major != y.Major || x.Minor != y.Minor || x.hasCount != y.hasCount || x.count != y.count {
			return false
		}
	}
	return true
}

// parseIOStat reads the v2 io.stat:
//
//	8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0
//	8:0 8:32 rbytes=90430464 ...
//
// A device without figures has no newline of its own on some kernels, so that
// two stand on one line.
func parseIOStat(b []byte, devices []Device) ([]Device, error) {
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			return devices, ErrGarbled
		}
		b = rest
		var d *Device
		for len(line) > 0 {
			var word []byte
			word, line = cutWord(line)
			if len(word) == 0 {
				continue
			}
			equals := bytes.IndexByte(word, '=')
			if equals < 0 {
				major, minor, ok := parseDevice(word)
				if !ok {
					return devices, ErrGarbled
				}
				devices, d = device(devices, major, minor)
				continue
			}
			if d == nil || !setIO(d, word[:equals], word[equals+1:]) {
				return devices, ErrGarbled
			}
		}
	}
	return devices, nil
}

// setIO sets what name says; a name that is not known is let pass.
func setIO(d *Device, name, number []byte) bool {
	var op Op
	var part Cost
	switch string(name) {
	case "rbytes", "rios":
		op = OpRead
	case "wbytes", "wios":
		op = OpWrite
	case "dbytes", "dios":
		op = OpDiscard
	case "cost.usage":
		part = CostUsage
	case "cost.wait":
		part = CostWait
	case "cost.indebt":
		part = CostInDebt
	case "cost.indelay":
		part = CostInDelay
	default:
		return true
	}
	n, ok := parseUint(number)
	if !ok {
		return false
	}
	switch name[1] {
	case 'o':
		d.cost[part], d.hasCost = n, d.hasCost|1<<part
	case 'b':
		d.bytes[op], d.hasBytes = n, d.hasBytes|1<<op
	default:
		d.count[op], d.hasCount = n, d.hasCount|1<<op
	}
	return true
}

// sumIO sets the sums over the devices; of none it is zero, for the file was
// read and lists nothing.
func sumIO(devices []Device, counts bool, into *figures) {
	var read, write uint64
	for i := range devices {
		if counts {
			read += devices[i].count[OpRead]
			write += devices[i].count[OpWrite]
		} else {
			read += devices[i].bytes[OpRead]
			write += devices[i].bytes[OpWrite]
		}
	}
	if counts {
		into.set(IOReads, read)
		into.set(IOWrites, write)
	} else {
		into.set(IOReadBytes, read)
		into.set(IOWriteBytes, write)
	}
}

// disk is a line of /proc/diskstats.
type disk struct {
	device Device
	name   []byte // aliases the text
}

// cutDisk reads one line, Documentation/admin-guide/iostats.rst; the numbers
// are reads, merged, sectors, ms, writes, merged, sectors, ms, ...:
//
//	253       0 vda 25041 1245 1234 11 340 55 2000 31 0 42 50 0 0 0 0 0 0
func cutDisk(b []byte) (d disk, rest []byte, err error) {
	line, rest, ok := cutLine(b)
	if !ok {
		return d, nil, ErrGarbled
	}
	word, line := cutWord(line)
	major, ok1 := parseUint(word)
	word, line = cutWord(line)
	minor, ok2 := parseUint(word)
	d.name, line = cutWord(line)
	if !ok1 || !ok2 || major > math.MaxUint32 || minor > math.MaxUint32 || len(d.name) == 0 {
		return d, nil, ErrGarbled
	}
	d.device.Major, d.device.Minor = uint32(major), uint32(minor)
	var n [15]uint64
	got := 0
	for ; got < len(n) && len(line) > 0; got++ {
		word, line = cutWord(line)
		if n[got], ok = parseUint(word); !ok {
			return d, nil, ErrGarbled
		}
	}
	if got < 11 {
		return d, nil, ErrGarbled
	}
	const sector = 512
	dev := &d.device
	dev.count[OpRead], dev.bytes[OpRead] = n[0], n[2]*sector
	dev.count[OpWrite], dev.bytes[OpWrite] = n[4], n[6]*sector
	mask := uint8(1<<OpRead | 1<<OpWrite)
	if got == 15 { // Linux 4.18
		dev.count[OpDiscard], dev.bytes[OpDiscard] = n[11], n[13]*sector
		mask |= 1 << OpDiscard
	}
	dev.hasBytes, dev.hasCount = mask, mask
	return d, rest, nil
}

// parseNetDev reads /proc/PID/net/dev, after two lines of headings:
//
//	eth0: 130698331    9340    0    0    0     0          0         0   863713    7591    0    0    0     0       0          0
func parseNetDev(b []byte, interfaces []Interface, intern names) ([]Interface, error) {
	for i := 0; len(b) > 0 || i < 2; i++ {
		line, rest, ok := cutLine(b)
		if !ok {
			return interfaces, ErrGarbled
		}
		b = rest
		if i < 2 {
			if bytes.IndexByte(line, '|') < 0 {
				return interfaces, ErrGarbled
			}
			continue
		}
		colon := bytes.LastIndexByte(line, ':')
		if colon < 0 {
			return interfaces, ErrGarbled
		}
		name, _ := cutWord(line[:colon])
		if len(name) == 0 {
			return interfaces, ErrGarbled
		}
		if ignored(name) {
			continue
		}
		var n [16]uint64
		tail := line[colon+1:]
		for j := range n {
			var word []byte
			word, tail = cutWord(tail)
			if n[j], ok = parseUint(word); !ok {
				return interfaces, ErrGarbled
			}
		}
		interfaces = append(interfaces, Interface{
			Name:    intern.intern(name),
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	return interfaces, nil
}

// ignored leaves out loopback and the host's ends of containers, as cAdvisor
// v0.60.5 does (container/libcontainer/handler.go).
func ignored(name []byte) bool {
	return string(name) == "lo" ||
		bytes.HasPrefix(name, []byte("veth")) ||
		bytes.HasPrefix(name, []byte("docker")) ||
		bytes.HasPrefix(name, []byte("nerdctl"))
}

// sumNetwork sets the sums over the interfaces, or of the one named only; if
// that one is not there, nothing.
func sumNetwork(interfaces []Interface, only string, into *figures) {
	var sum Interface
	found := only == ""
	for i := range interfaces {
		n := &interfaces[i]
		if only != "" && n.Name != only {
			continue
		}
		found = true
		sum.RxBytes += n.RxBytes
		sum.RxPackets += n.RxPackets
		sum.RxErrors += n.RxErrors
		sum.RxDropped += n.RxDropped
		sum.TxBytes += n.TxBytes
		sum.TxPackets += n.TxPackets
		sum.TxErrors += n.TxErrors
		sum.TxDropped += n.TxDropped
	}
	if !found {
		return
	}
	into.set(NetRxBytes, sum.RxBytes)
	into.set(NetRxPackets, sum.RxPackets)
	into.set(NetRxErrors, sum.RxErrors)
	into.set(NetRxDropped, sum.RxDropped)
	into.set(NetTxBytes, sum.TxBytes)
	into.set(NetTxPackets, sum.TxPackets)
	into.set(NetTxErrors, sum.TxErrors)
	into.set(NetTxDropped, sum.TxDropped)
}

// parseRoute finds the interface of the default route in /proc/net/route:
//
//	Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask ...
//	eth0	00000000	010011AC	0003	0	0	0	00000000 ...
func parseRoute(b []byte, intern names) string {
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			return ""
		}
		b = rest
		name, tail, ok := bytes.Cut(line, []byte{'\t'})
		if ok && bytes.HasPrefix(tail, []byte("00000000\t")) {
			return intern.intern(name)
		}
	}
	return ""
}
