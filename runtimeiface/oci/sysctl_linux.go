package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// networkFile has the node's kernel parameters as they were before.
const networkFile = "network.json"

const forwardIPv6 = "net/ipv6/conf/all/forwarding"

// hostSysctls are what the bridge needs of the node: name and value each, in
// their order. It is called in the node's namespace.
func (n *network) hostSysctls() ([][2]string, error) {
	list := [][2]string{{"net/ipv4/ip_forward", "1"}, {"net/ipv4/conf/all/send_redirects", "0"}}
	if !n.hasIPv6Subnet() {
		return list, nil
	}
	forwards, err := readSysctl(forwardIPv6)
	if err != nil {
		return nil, err
	}
	if forwards == "0" {
		// Who forwards listens to routers no longer, unless told to: the node
		// would lose its own default route when that runs out.
		hearing, err := interfacesWith("accept_ra", "1")
		if err != nil {
			return nil, err
		}
		for _, name := range hearing {
			list = append(list, [2]string{name, "2"})
		}
	}
	return append(list, [2]string{forwardIPv6, "1"}), nil
}

// interfacesWith gives the names of those parameters of the node's interfaces,
// other than loopback, that have the value.
func interfacesWith(parameter, value string) ([]string, error) {
	entries, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if slices.Contains([]string{"all", "default", "lo"}, e.Name()) {
			continue
		}
		name := "net/ipv6/conf/" + e.Name() + "/" + parameter
		if have, err := readSysctl(name); err == nil && have == value {
			names = append(names, name)
		}
	}
	return names, nil
}

// setHostSysctls remembers on disk what was there before it changes anything.
func (n *network) setHostSysctls() error {
	return n.inHostNS(func() error {
		before, err := n.readBefore()
		if err != nil {
			before = map[string]string{}
		}
		wanted, err := n.hostSysctls()
		if err != nil {
			return err
		}
		var change [][2]string
		for _, want := range wanted {
			have, err := readSysctl(want[0])
			if err != nil {
				return err
			}
			if have == want[1] {
				continue
			}
			change = append(change, want)
			keep(before, want[0], have)
			if want[0] != forwardIPv6 {
				continue
			}
			// Putting it back for all would switch these off with the others.
			alone, err := interfacesWith("forwarding", "1")
			if err != nil {
				return err
			}
			for _, name := range alone {
				keep(before, name, "1")
			}
		}
		if len(change) == 0 {
			return nil
		}
		data, err := json.Marshal(before)
		if err != nil {
			return err
		}
		if err := shim.WriteFile(n.dir, networkFile, data); err != nil {
			return err
		}
		faultPoint("host parameters recorded")
		for _, c := range change {
			if err := writeSysctl(c[0], c[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

func keep(before map[string]string, name, value string) {
	if _, ok := before[name]; !ok {
		before[name] = value
	}
}

func (n *network) readBefore() (map[string]string, error) {
	before := map[string]string{}
	data, err := os.ReadFile(filepath.Join(n.dir, networkFile))
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	return before, err
}

// restoreSysctls puts back what setHostSysctls changed. Those of interfaces that
// are gone went with them.
func (n *network) restoreSysctls() error {
	before, err := n.readBefore()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", networkFile, err)
	}
	// What is for all first: it changes each.
	names := slices.SortedFunc(maps.Keys(before), func(a, b string) int {
		switch aAll, bAll := strings.Contains(a, "/all/"), strings.Contains(b, "/all/"); {
		case aAll && !bAll:
			return -1
		case bAll && !aAll:
			return 1
		}
		return strings.Compare(a, b)
	})
	err = n.inHostNS(func() error {
		var errs []error
		for _, name := range names {
			if !strings.HasPrefix(name, "net/") || !filepath.IsLocal(name) {
				continue // not ours
			}
			if err := writeSysctl(name, before[name]); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	faultPoint("host parameters put back")
	return os.Remove(filepath.Join(n.dir, networkFile))
}

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(data)), err
}

func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}
