package oci

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// capNames by number, of Linux 6.18 include/uapi/linux/capability.h.
var capNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCaps are those of runtimeiface.Security.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_AUDIT_WRITE",
}

// ownCapabilities are what this process may hand on: its bounding set.
func ownCapabilities() map[string]bool {
	own := map[string]bool{}
	data, _ := os.ReadFile("/proc/self/status")
	for line := range bytes.Lines(data) {
		text, ok := strings.CutPrefix(string(line), "CapBnd:")
		if !ok {
			continue
		}
		mask, _ := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		for i, name := range capNames {
			if mask&(1<<i) != 0 {
				own[name] = true
			}
		}
	}
	return own
}

// capabilities resolves adds and drops. What the agent itself lacks cannot be
// given and is left out.
func capabilities(sec runtimeiface.Security, own map[string]bool) (*specs.LinuxCapabilities, error) {
	set := map[string]bool{}
	for _, name := range defaultCaps {
		set[name] = true
	}
	all := func(v bool) {
		for _, name := range capNames {
			set[name] = v
		}
	}
	add, addAll, err := capList("Security.AddCapabilities", sec.AddCapabilities)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capList("Security.DropCapabilities", sec.DropCapabilities)
	if err != nil {
		return nil, err
	}
	if addAll || sec.Privileged {
		all(true)
	}
	if dropAll && !sec.Privileged {
		all(false)
	}
	for _, name := range add {
		set[name] = true
	}
	for _, name := range drop {
		if !sec.Privileged {
			// Drops win over the defaults, adds over "ALL" dropped.
			set[name] = set[name] && slices.Contains(add, name) && dropAll
		}
	}
	var list []string
	for _, name := range capNames {
		if set[name] && own[name] {
			list = append(list, name)
		}
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}, nil
}

func capList(field string, names []string) (list []string, all bool, err error) {
	for _, name := range names {
		name = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		switch {
		case name == "CAP_ALL":
			all = true
		case slices.Contains(capNames, name):
			list = append(list, name)
		default:
			return nil, false, invalid(field, "has no capability "+name)
		}
	}
	return list, all, nil
}
