package oci

// Not an external test package: what is tested here has no exported name.

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/runtimeiface"
)

func take(t *testing.T, a *addresses, want ...string) {
	t.Helper()
	var got []string
	for range want {
		ip, err := a.take("pod")
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
		got = append(got, ip.String())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func full(t *testing.T, a *addresses) {
	t.Helper()
	if ip, err := a.take("pod"); err == nil {
		t.Fatalf("a full subnet gave %v", ip)
	}
}

func newTestAddresses(subnet string) *addresses {
	p := netip.MustParsePrefix(subnet)
	return newAddresses(fieldOf(0, p), p)
}

func TestAddressesRestAsLongAsTheyCan(t *testing.T) {
	a := newTestAddresses("10.0.0.0/29") // .1 is the bridge, .7 broadcast
	take(t, a, "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")
	_, err := a.take("pod")
	if want := "config: Network.Subnets[0] 10.0.0.0/29: no address is free: 5 pods have one each"; err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	a.free(netip.MustParseAddr("10.0.0.3"), "pod")
	a.free(netip.MustParseAddr("10.0.0.5"), "pod")
	take(t, a, "10.0.0.3", "10.0.0.5")
	full(t, a)

	a.free(netip.MustParseAddr("10.0.0.3"), "another")
	full(t, a)

	restarted := newTestAddresses("10.0.0.0/29")
	restarted.mark(netip.MustParseAddr("10.0.0.4"), "pod")
	take(t, restarted, "10.0.0.5")

	smallest := newTestAddresses("10.0.0.0/30")
	take(t, smallest, "10.0.0.2")
	full(t, smallest)
}

func TestAddressesOfIPv6(t *testing.T) {
	a := newTestAddresses("fd00::/126") // :: is any router's, ::1 the bridge's; there is no broadcast
	take(t, a, "fd00::2", "fd00::3")
	full(t, a)
	a.free(netip.MustParseAddr("fd00::2"), "pod")
	take(t, a, "fd00::2")

	wide := newTestAddresses("fd00:1::/64")
	wide.mark(netip.MustParseAddr("fd00:1::ffff:ffff:ffff:fffe"), "pod")
	take(t, wide, "fd00:1::ffff:ffff:ffff:ffff", "fd00:1::2")

	last := newTestAddresses("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125")
	take(t, last, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffa")
}

func TestAddressesOfAnotherSubnetAreLeftAlone(t *testing.T) {
	a := newTestAddresses("10.0.1.0/30")
	for _, foreign := range []string{"10.0.0.9", "10.0.1.1", "10.0.1.3", "fd00::9"} {
		a.mark(netip.MustParseAddr(foreign), "pod")
	}
	take(t, a, "10.0.1.2")
	full(t, a)
}

func TestNetworkConfig(t *testing.T) {
	parse := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for name, test := range map[string]struct {
		network Network
		want    []string // each is in the error; none: no error
	}{
		"zero":            {},
		"dual":            {network: Network{Subnets: parse("fd00::/64", "10.0.0.0/24")}},
		"two of a family": {network: Network{Subnets: parse("10.0.0.0/24", "10.1.0.0/24")}, want: []string{"Subnets[1] 10.1.0.0/24 is of the same family"}},
		"too narrow": {
			network: Network{Subnets: parse("10.0.0.0/31", "fd00::/127")},
			want:    []string{"Subnets[0] 10.0.0.0/31 is not an IPv4 subnet of /30", "Subnets[1] fd00::/127 is not an IPv6 subnet of /126"},
		},
		"not for pods": {
			network: Network{Subnets: []netip.Prefix{{}, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fe80::/64"), netip.MustParsePrefix("::ffff:10.0.0.0/120")}},
			want:    []string{"Subnets[0]", "Subnets[1] 127.0.0.0/8", "Subnets[2] fe80::/64", "Subnets[3]"},
		},
		"MTU of IPv4":    {network: Network{MTU: 600}},
		"MTU of IPv6":    {network: Network{MTU: 1279, Subnets: parse("fd00::/64")}, want: []string{"Network.MTU 1279 is not within 1280"}},
		"names of files": {network: Network{Bridge: ".."}, want: []string{`Network.Bridge ".."`}},
		"all":            {network: Network{Bridge: "all"}, want: []string{`Network.Bridge "all"`}},
		"relative": {
			network: Network{CNI: CNI{ConfDir: "a", BinDirs: []string{"b"}, CacheDir: "c"}},
			want:    []string{"CNI.ConfDir", "CNI.BinDirs[0]", "CNI.CacheDir"},
		},
	} {
		_, err := Config{Root: "/r", Network: test.network}.withDefaults()
		if (err == nil) != (len(test.want) == 0) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not tell %s", name, err, want)
			}
		}
	}
}

func record(id string, mappings ...runtimeiface.PortMapping) *sandboxRecord {
	return &sandboxRecord{
		ID: id, Spec: runtimeiface.SandboxSpec{Namespace: "ns", Name: id, PortMappings: mappings},
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.9")},
	}
}

func tcp(port uint16, hostIP ...string) runtimeiface.PortMapping {
	m := runtimeiface.PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: port}
	if len(hostIP) > 0 {
		m.HostIP = netip.MustParseAddr(hostIP[0])
	}
	return m
}

func TestAPortHasOneOwner(t *testing.T) {
	for name, test := range map[string]struct {
		first, second runtimeiface.PortMapping
		clash         bool
	}{
		"same":                   {tcp(80), tcp(80), true},
		"another port":           {tcp(80), tcp(81), false},
		"another protocol":       {tcp(80), runtimeiface.PortMapping{Protocol: "UDP", ContainerPort: 80, HostPort: 80}, false},
		"any and one":            {tcp(80), tcp(80, "192.0.2.1"), true},
		"one and any":            {tcp(80, "192.0.2.1"), tcp(80), true},
		"0.0.0.0 and one":        {tcp(80, "0.0.0.0"), tcp(80, "192.0.2.1"), true},
		"two addresses":          {tcp(80, "192.0.2.2"), tcp(80, "192.0.2.1"), false},
		"one address, two texts": {tcp(80, "::ffff:192.0.2.1"), tcp(80, "192.0.2.1"), true},
		"no port of the node":    {tcp(0), tcp(0), false},
	} {
		p := newPorts()
		if err := p.reserve(record("first", test.first)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err := p.reserve(record("second", test.second))
		if errors.Is(err, runtimeiface.ErrInUse) != test.clash || (err != nil) != test.clash {
			t.Errorf("%s: %v", name, err)
		}
		if test.clash && !strings.Contains(err.Error(), "TCP port 80 of the node belongs to pod ns/first (sandbox first)") {
			t.Errorf("%s: %v", name, err)
		}
		p.release("first")
		p.release("first")
		if err := p.reserve(record("third", test.second)); test.clash && err != nil {
			t.Errorf("%s: given back, but %v", name, err)
		}
	}
}

func TestAPodTakesAllOfItsPortsOrNone(t *testing.T) {
	p := newPorts()
	if err := p.reserve(record("a", tcp(80))); err != nil {
		t.Fatal(err)
	}
	if err := p.reserve(record("b", tcp(79), tcp(80))); !errors.Is(err, runtimeiface.ErrInUse) {
		t.Fatalf("got %v", err)
	}
	if err := p.reserve(record("c", tcp(79))); err != nil {
		t.Errorf("port 79 is kept: %v", err)
	}
}

func TestMappingsThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		mappings []runtimeiface.PortMapping
		want     error
	}{
		"twice":          {[]runtimeiface.PortMapping{tcp(80), tcp(80, "192.0.2.1")}, runtimeiface.ErrInvalid},
		"twice apart":    {[]runtimeiface.PortMapping{tcp(80, "192.0.2.2"), tcp(80, "192.0.2.1")}, nil},
		"another family": {[]runtimeiface.PortMapping{tcp(80, "2001:db8::1")}, runtimeiface.ErrNotSupported},
		"::1":            {[]runtimeiface.PortMapping{tcp(80, "::1")}, runtimeiface.ErrNotSupported},
		"zone":           {[]runtimeiface.PortMapping{tcp(80, "fe80::1%eth0")}, runtimeiface.ErrInvalid},
	} {
		if err := newPorts().reserve(record("a", test.mappings...)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		host := record("a", test.mappings...)
		host.Spec.Network = runtimeiface.NamespaceHost
		if err := newPorts().reserve(host); err != nil {
			t.Errorf("%s: of a pod in the node's network: %v", name, err)
		}
	}
}

func FuzzCNIConfiguration(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}`,
		`{"cniVersion": "0.4.0", "name": "a", "type": "bridge", "capabilities": {"portMappings": true}}`,
		`{"name": "a", "cniVersions": ["1.1.0", "9"], "plugins": [null, {}]}`, `{`, `null`, `[]`, ``,
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, list bool) {
		file := filepath.Join(t.TempDir(), map[bool]string{true: "a.conflist", false: "a.conf"}[list])
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := readCNIConfig(file)
		if err != nil {
			return
		}
		// What is recorded is what DEL reads after a restart.
		again, err := rec.list()
		if err != nil || again.Name != rec.Network || len(again.Plugins) == 0 {
			t.Fatalf("%s is read again as %+v, %v", rec.Config, again, err)
		}
	})
}
