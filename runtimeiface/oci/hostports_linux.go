package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// hostPorts makes ports of the node answer for pods on the bridge, with rules in
// a table of its own. What the table holds follows from the pods: it is made
// anew, in one transaction, whenever it is not what it should be.
type hostPorts struct {
	*ports
	net *network

	tableMu sync.Mutex // one transaction at a time, in the order of changes
	table   *portTable
	// made: the table is there, with the pods that are added.
	made bool
	// ended are pods that were not marked: their elements may be there until it is
	// settled.
	ended   []*portsOfPod
	settled bool
}

func newHostPorts(n *network, table string) *hostPorts {
	return &hostPorts{ports: newPorts(), net: n, table: newPortTable(table, n.cfg.Bridge, int(n.ns.Fd()))}
}

// settle has the table hold the pods that are marked and no more. Without any
// there is no table.
func (h *hostPorts) settle() error {
	h.tableMu.Lock()
	defer h.tableMu.Unlock()
	var added []*portsOfPod
	h.mu.Lock()
	for _, pod := range h.pods {
		if pod.added = !pod.plugged; pod.added {
			added = append(added, pod)
		}
	}
	h.mu.Unlock()
	if len(added) == 0 {
		if err := h.clear(); err != nil {
			return err
		}
	} else if err := h.rebuild(); err != nil {
		return hostPortError(err)
	}
	for _, pod := range added {
		if err := h.openLoopback(pod); err != nil {
			return err
		}
	}
	for _, pod := range h.ended {
		if h.net.inUse(pod.ips) {
			continue // another pod's flows by now
		}
		if err := h.net.forgetFlows(pod, true); err != nil {
			return err
		}
	}
	h.ended, h.settled = nil, true
	return nil
}

// add has the ports of a pod that is on the bridge answer.
func (h *hostPorts) add(sandboxID string) error {
	h.tableMu.Lock()
	defer h.tableMu.Unlock()
	pod := h.change(sandboxID, true)
	if pod == nil {
		return nil
	}
	var err error
	if h.made {
		err = h.table.add(pod.elements())
	}
	if !h.made || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) { // somebody was at the table
		err = h.rebuild()
	}
	if err != nil {
		h.change(sandboxID, false)
		return hostPortError(err)
	}
	faultPoint("ports added")
	if err := h.openLoopback(pod); err != nil {
		return err
	}
	// What was sent before the rules, and is sent on, would go past them.
	return h.net.forgetFlows(pod, false)
}

// remove is add undone. It can be repeated.
func (h *hostPorts) remove(rec *sandboxRecord) error {
	h.tableMu.Lock()
	defer h.tableMu.Unlock()
	h.mu.Lock()
	pod := h.pods[rec.ID]
	h.mu.Unlock()
	switch {
	case pod == nil:
		if mappings := hostMappings(rec.Spec); len(mappings) > 0 && len(rec.IPs) > 0 && !h.settled {
			h.ended = append(h.ended, &portsOfPod{mappings: mappings, ips: rec.IPs})
		}
		return nil
	case !pod.added:
		return nil
	}
	h.change(rec.ID, false)
	err := h.table.remove(pod.elements())
	if errors.Is(err, unix.ENOENT) {
		err = h.rebuild()
	}
	if err != nil {
		h.change(rec.ID, true)
		return hostPortError(err)
	}
	faultPoint("ports removed")
	return h.net.forgetFlows(pod, true)
}

// change gives nil where there is nothing to add.
func (h *hostPorts) change(sandboxID string, added bool) *portsOfPod {
	h.mu.Lock()
	defer h.mu.Unlock()
	pod := h.pods[sandboxID]
	if pod != nil {
		pod.added = added
	}
	return pod
}

// rebuild makes the table as it should be, at one stroke.
func (h *hostPorts) rebuild() error {
	var all elements
	h.mu.Lock()
	for _, pod := range h.pods {
		if pod.added {
			all.append(pod.elements())
		}
	}
	h.mu.Unlock()
	err := h.table.replace(all)
	h.made = err == nil
	return err
}

// purge takes the table away.
func (h *hostPorts) purge() error {
	h.tableMu.Lock()
	defer h.tableMu.Unlock()
	return h.clear()
}

func (h *hostPorts) clear() error {
	h.made = false
	there, err := h.table.exists()
	if lacksTables(err) || err == nil && !there {
		return nil
	}
	if err != nil {
		return hostPortError(err)
	}
	// First what the table guards.
	err = h.routeLoopback("0")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = h.table.delete()
	}
	if err != nil {
		return hostPortError(err)
	}
	return nil
}

// openLoopback lets the node reach the pod's ports by its own 127.0.0.1. The
// kernel then takes addresses of 127.0.0.0/8 from the bridge, too, and that the
// table's guard drops (CVE-2020-8558): so it comes after the table.
func (h *hostPorts) openLoopback(pod *portsOfPod) error {
	for _, m := range pod.mappings {
		if ip := m.HostIP; !ip.IsValid() || ip.Is4() && (ip.IsUnspecified() || ip.IsLoopback()) {
			if err := h.routeLoopback("1"); err != nil {
				return fmt.Errorf("host ports: %w", err)
			}
			return nil
		}
	}
	return nil
}

func (h *hostPorts) routeLoopback(value string) error {
	return h.net.inHostNS(func() error {
		return writeSysctl("net/ipv4/conf/"+h.net.cfg.Bridge+"/route_localnet", value)
	})
}

// hostPortError says what a kernel without nf_tables, or without its NAT, lacks.
func hostPortError(err error) error {
	if lacksTables(err) {
		return notSupported("PortMappings", "needs nf_tables with NAT in the kernel (Linux 5.2): "+err.Error())
	}
	return fmt.Errorf("host ports: %w", err)
}

// lacksTables goes by what nfnetlink of Linux 6.12 says where it has no subsystem
// for a request, or no expression of a rule's.
func lacksTables(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.EINVAL)
}
