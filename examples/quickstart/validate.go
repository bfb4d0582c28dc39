package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

var (
	bridgeName = regexp.MustCompile(`^[^/\s:]{1,15}$`)
	tableName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)
)

// validate says all that is wrong, by the flag that was typed, before anything is
// made or taken up.
func (o options) validate() error {
	var errs []error
	bad := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if os.Geteuid() > 0 { // negative where there are no users
		errs = append(errs, errors.New("root is needed, for containers, network and cgroups"))
	}
	bad("manifests", isDirectory(o.manifests))
	prefix, err := netip.ParsePrefix(o.podCIDR)
	if err == nil && (!prefix.Addr().Is4() || prefix != prefix.Masked() || prefix.Bits() > 30) {
		err = fmt.Errorf("%s is not an IPv4 subnet of /30 or wider, such as 10.88.0.0/24", prefix)
	}
	bad("pod-cidr", err)
	bad("bridge", matches(o.bridge, bridgeName, "the name of an interface, at most 15 characters"))
	bad("table", matches(o.table, tableName, "1 to 64 letters, digits, '-' and '_' that start with a letter"))
	if !path.IsAbs(o.cgroup) || path.Clean(o.cgroup) != o.cgroup || o.cgroup == "/" {
		bad("cgroup", fmt.Errorf("%q is not a clean path below /", o.cgroup))
	}
	if wrong := validation.IsDNS1123Subdomain(o.name); o.name != "" && len(wrong) > 0 {
		bad("node-name", fmt.Errorf("%q: %s", o.name, strings.Join(wrong, "; ")))
	}
	if o.interval <= 0 {
		bad("interval", fmt.Errorf("%v is no time to wait", o.interval))
	}
	if o.timeout <= 0 {
		bad("timeout", fmt.Errorf("%v is no time to wait", o.timeout))
	}
	if o.disks <= 0 {
		bad("disk-interval", fmt.Errorf("%v is no time to wait", o.disks))
	}
	_, err = o.thresholds()
	bad("eviction", err)
	bad("listen", free("listen", o.listen))
	if o.registry != "" {
		bad("registry", free("registry", o.registry))
		if o.registry == o.listen {
			bad("registry", fmt.Errorf("%s is what --listen has", o.registry))
		}
		if _, err := os.Stat(o.demo); err != nil {
			bad("demo", fmt.Errorf("%w; `make quickstart` builds it, and --registry '' does without", err))
		}
	}
	for _, name := range []string{"runc", "nodekit-shim"} {
		if _, err := program(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func isDirectory(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", path)
	}
	return err
}

func matches(text string, want *regexp.Regexp, what string) error {
	if !want.MatchString(text) {
		return fmt.Errorf("%q is not %s", text, what)
	}
	return nil
}

// free tells whether one can listen at an address, which is loopback only.
func free(flag, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || port == "0" {
		return fmt.Errorf("%q is no address with a port, such as 127.0.0.1:10256", address)
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return fmt.Errorf("%s is not on loopback, such as 127.0.0.1:10256", address)
	}
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; another program has that port, give --%s another", err, flag)
	}
	if err == nil {
		err = listener.Close()
	}
	return err
}

// program finds what the node needs, beside this program or in PATH.
func program(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), name); isProgram(beside) {
			return beside, nil
		}
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is needed, beside this program or in PATH; `make quickstart` builds it", name)
	}
	return filepath.Abs(found)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// thresholds reads --eviction; nil is off.
func (o options) thresholds() ([]eviction.Threshold, error) {
	if o.eviction == "" {
		return nil, nil
	}
	hard := map[string]string{}
	for _, text := range strings.Split(o.eviction, ",") {
		signal, value, ok := strings.Cut(text, "<")
		if !ok {
			return nil, fmt.Errorf("%q is no threshold, which has a < in it", text)
		}
		hard[signal] = value
	}
	return eviction.Parse(hard, nil, nil, nil)
}
