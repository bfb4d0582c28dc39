package iptables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
)

// The names of chains, after the prefix. Each front has one, and each endpoint.
const (
	chainServices    = "SERVICES"
	chainNodePorts   = "NODEPORTS"
	chainOffCluster  = "OFFCLUSTER"
	chainMark        = "MARK"
	chainPostrouting = "POSTROUTING"
	chainSource      = "SOURCE"
	chainEgress      = "EGRESS"
	chainRefusals    = "REFUSALS"
	chainElsewhere   = "ELSEWHERE"
	chainRefuse      = "REFUSE"
)

// jumps lead from the kernel's chains to ours; what stands between is a match.
var jumps = map[string][]struct{ from, match, to string }{
	"nat": {
		{"PREROUTING", "", chainServices}, {"OUTPUT", "", chainServices}, {"POSTROUTING", "", chainPostrouting},
	},
	"filter": {
		{"INPUT", "-m conntrack --ctstate NEW ", chainRefusals}, {"FORWARD", "-m conntrack --ctstate NEW ", chainElsewhere},
		{"OUTPUT", "-m conntrack --ctstate NEW ", chainElsewhere},
	},
}

var tableNames = []string{"filter", "nat"}

// ruleSet are the rules of one family.
type ruleSet struct {
	config Config
	node   proxyrules.Node
	v4     bool
	order  map[string][]string // chains of each table
	rules  map[string][]string // by chain: what follows -A and its name
}

func newRuleSet(config Config, table *proxyrules.Table, v4 bool) *ruleSet {
	s := &ruleSet{config: config, node: table.Node, v4: v4, order: map[string][]string{}, rules: map[string][]string{}}
	for _, name := range []string{chainServices, chainNodePorts, chainOffCluster, chainMark, chainPostrouting, chainSource, chainEgress} {
		s.chain("nat", name)
	}
	for _, name := range []string{chainRefusals, chainElsewhere, chainRefuse} {
		s.chain("filter", name)
	}
	s.fixed()
	var clusterIPs []netip.Addr
	for f := range table.Fronts() {
		if f.Addr.Is4() != v4 {
			continue
		}
		s.front(f)
		if f.Kind == proxyrules.ClusterIP && !slices.Contains(clusterIPs[max(0, len(clusterIPs)-1):], f.Addr) {
			clusterIPs = append(clusterIPs, f.Addr) // fronts are sorted by address
		}
	}
	for _, addr := range s.node.Addresses {
		if addr.Is4() == v4 {
			s.add(chainServices, "-d %s -j %s", addr, s.name(chainNodePorts))
		}
	}
	for _, addr := range clusterIPs {
		s.add(chainElsewhere, "-d %s -j %s", addr, s.name(chainRefuse))
	}
	for _, p := range s.of(s.node.ServiceCIDRs) {
		s.add(chainElsewhere, "%s-j DROP", networkMatch("-d", p))
	}
	return s
}

// fixed are the rules that no Service changes.
func (s *ruleSet) fixed() {
	mark := s.config.MasqueradeMark
	s.add(chainMark, "-j MARK --set-xmark 0x%x/0x%x", mark, mark)
	s.add(chainPostrouting, "-m mark --mark 0x%x/0x%x -j %s", mark, mark, s.name(chainSource))
	s.add(chainPostrouting, "-j %s", s.name(chainEgress))
	s.add(chainSource, "-j MARK --set-xmark 0x%x/0x0", mark) // exclusive or
	s.add(chainSource, "-j MASQUERADE --random-fully")
	local := s.fromPods()
	switch {
	case s.node.MasqueradeAll:
		s.add(chainOffCluster, "-j %s", s.name(chainMark))
	case len(local) > 0:
		for _, match := range local {
			s.add(chainOffCluster, "%s-j RETURN", match)
		}
		s.add(chainOffCluster, "-j %s", s.name(chainMark))
	}
	if pods := s.of(s.node.PodCIDRs); s.node.MasqueradeEgress && len(pods) > 0 {
		multicast := netip.MustParsePrefix("224.0.0.0/4")
		if !s.v4 {
			multicast = netip.MustParsePrefix("ff00::/8")
		}
		for _, p := range append(append([]netip.Prefix{multicast}, pods...), s.of(s.node.NoMasquerade)...) {
			s.add(chainEgress, "%s-j RETURN", networkMatch("-d", p))
		}
		for _, p := range pods {
			s.add(chainEgress, "%s-j MASQUERADE --random-fully", networkMatch("-s", p))
		}
	}
	unreachable := "icmp-port-unreachable"
	if !s.v4 {
		unreachable = "icmp6-port-unreachable"
	}
	s.add(chainRefuse, "-p tcp -j REJECT --reject-with tcp-reset")
	s.add(chainRefuse, "-j REJECT --reject-with %s", unreachable)
	s.add(chainElsewhere, "-j %s", s.name(chainRefusals))
}

// front writes the rules of one.
func (s *ruleSet) front(f *proxyrules.Front) {
	match := fmt.Sprintf("-p %s -m %[1]s --dport %d ", strings.ToLower(string(f.Protocol)), f.Port)
	from, to := chainServices, fmt.Sprintf("-d %s ", f.Addr)
	if f.Addr.IsUnspecified() {
		from, to = chainNodePorts, ""
	}
	note := comment(f.Service + ":" + f.PortName)
	if f.Action == proxyrules.Balance || len(f.Inside) > 0 {
		chain := "F-" + hash(f.FrontKey.String())
		s.chain("nat", chain)
		s.add(from, "%s%s%s-j %s", to, match, note, s.name(chain))
		s.admit(chain, f)
	}
	refuse := func(verdict string) {
		if !f.Addr.IsUnspecified() {
			s.add(chainRefusals, "-d %s %s%s-j %s", f.Addr, match, note, verdict)
			return
		}
		for _, addr := range s.node.Addresses {
			if addr.Is4() == s.v4 {
				s.add(chainRefusals, "-d %s %s%s-j %s", addr, match, note, verdict)
			}
		}
	}
	// Who is let in and balanced does not come by with this address any more.
	if len(f.Sources) > 0 && f.Action == proxyrules.Reject {
		for _, p := range f.Sources {
			s.add(chainRefusals, "-d %s %s%s-j %s", f.Addr, networkMatch("-s", p), match, s.name(chainRefuse))
		}
	}
	switch {
	case len(f.Sources) > 0 || f.Action == proxyrules.Drop:
		refuse("DROP")
	case f.Action == proxyrules.Reject:
		refuse(s.name(chainRefuse))
	}
}

// admit fills the chain of a front.
func (s *ruleSet) admit(chain string, f *proxyrules.Front) {
	if len(f.Sources) > 0 {
		inner := "A-" + chain[2:]
		s.chain("nat", inner)
		for _, p := range f.Sources {
			s.add(chain, "%s-j %s", networkMatch("-s", p), s.name(inner))
		}
		chain = inner
	}
	if f.Masquerade == proxyrules.MasqueradeOffCluster {
		s.add(chain, "-j %s", s.name(chainOffCluster))
	}
	if len(f.Inside) > 0 {
		inside := "I-" + hash(f.FrontKey.String())
		s.chain("nat", inside)
		s.balance(inside, f, f.Inside, true)
		for _, match := range s.fromPods() {
			s.add(chain, "%s-j %s", match, s.name(inside))
		}
		s.add(chain, "-m addrtype --src-type LOCAL -j %s", s.name(chainMark))
		s.add(chain, "-m addrtype --src-type LOCAL -j %s", s.name(inside))
	}
	if f.Action == proxyrules.Balance {
		if f.Masquerade == proxyrules.MasqueradeAlways {
			s.add(chain, "-j %s", s.name(chainMark))
		}
		s.balance(chain, f, f.Endpoints, false)
	}
}

// balance sends what comes to a chain to one of endpoints.
func (s *ruleSet) balance(chain string, f *proxyrules.Front, endpoints []proxyrules.Endpoint, inside bool) {
	names := make([]string, len(endpoints))
	for i, e := range endpoints {
		names[i] = s.endpoint(f, e, inside)
		if f.Affinity > 0 {
			s.add(chain, "-m recent --rcheck --seconds %d --reap --name %s --rsource -j %[2]s", f.Affinity, s.name(names[i]))
		}
	}
	for i, name := range names {
		chance := ""
		if left := len(names) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		s.add(chain, "%s-j %s", chance, s.name(name))
	}
}

// endpoint gives the chain of one, which those who remember clients together share.
func (s *ruleSet) endpoint(f *proxyrules.Front, e proxyrules.Endpoint, inside bool) string {
	key := fmt.Sprintf("%s %s", e.Addr, f.Protocol)
	if f.Affinity > 0 {
		key += fmt.Sprintf(" %+v", f.Group(inside))
	}
	chain := "E-" + hash(key)
	if _, there := s.rules[chain]; there {
		return chain
	}
	s.chain("nat", chain)
	s.add(chain, "-s %s -j %s", e.Addr.Addr(), s.name(chainMark))
	remember := ""
	if f.Affinity > 0 {
		remember = fmt.Sprintf("-m recent --set --name %s --rsource ", s.name(chain))
	}
	protocol := strings.ToLower(string(f.Protocol))
	s.add(chain, "%s-p %s -m %[2]s -j DNAT --to-destination %s", remember, protocol, e.Addr)
	return chain
}

// fromPods are matches of what comes from a pod.
func (s *ruleSet) fromPods() []string {
	if s.node.LocalInterface != "" {
		return []string{"-i " + strings.Replace(s.node.LocalInterface, "*", "+", 1) + " "}
	}
	var out []string
	for _, p := range s.node.Local(s.v4) {
		out = append(out, networkMatch("-s", p))
	}
	return out
}

func (s *ruleSet) of(prefixes []netip.Prefix) (out []netip.Prefix) {
	for _, p := range prefixes {
		if p.Addr().Is4() == s.v4 {
			out = append(out, p)
		}
	}
	return out
}

func (s *ruleSet) name(chain string) string { return s.config.Prefix + "-" + chain }

func (s *ruleSet) chain(table, chain string) {
	s.order[table] = append(s.order[table], chain)
	s.rules[chain] = nil
}

func (s *ruleSet) add(chain, format string, args ...any) {
	s.rules[chain] = append(s.rules[chain], fmt.Sprintf(format, args...))
}

func networkMatch(flag string, p netip.Prefix) string {
	if p.Bits() == 0 {
		return "" // matches all
	}
	return fmt.Sprintf("%s %s ", flag, p)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToUpper(hex.EncodeToString(sum[:8]))
}

// comment names a Service in rules. What is no part of a name could end the line.
func comment(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/-.:", r) {
			return r
		}
		return '_'
	}, strings.TrimSuffix(text, ":"))
	return fmt.Sprintf("-m comment --comment %s ", clean[:min(len(clean), 200)])
}

// text writes what iptables-restore --noflush reads. stale are chains to be
// removed, missing the jumps that are not there; both by table.
func (s *ruleSet) text(stale map[string][]string, missing map[string][]string) string {
	var b strings.Builder
	for _, table := range tableNames {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, chain := range s.order[table] {
			fmt.Fprintf(&b, ":%s - [0:0]\n", s.name(chain))
		}
		for _, name := range stale[table] {
			fmt.Fprintf(&b, ":%s - [0:0]\n", name)
		}
		for _, chain := range s.order[table] {
			for _, rule := range s.rules[chain] {
				fmt.Fprintf(&b, "-A %s %s\n", s.name(chain), rule)
			}
		}
		for _, jump := range missing[table] {
			fmt.Fprintf(&b, "-I %s\n", jump)
		}
		for _, name := range stale[table] {
			fmt.Fprintf(&b, "-X %s\n", name)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// digest tells one rule set from another.
func (s *ruleSet) digest() string { return hash(s.text(nil, nil)) }

// jumpsOf are the jumps of a table, as after -I or -A.
func (c *Config) jumpsOf(table string) []string {
	var out []string
	for _, j := range jumps[table] {
		out = append(out, fmt.Sprintf("%s %s-j %s-%s", j.from, j.match, c.Prefix, j.to))
	}
	return out
}

// Render writes all rules of a table as text that iptables-restore --noflush
// reads, or with ipv6 ip6tables-restore, on a system that has none of them.
// config must be one that Open accepts; its NetNS is not used.
func Render(config Config, table *proxyrules.Table, ipv6 bool) (string, error) {
	if err := config.check(); err != nil {
		return "", err
	}
	missing := make(map[string][]string)
	for _, name := range tableNames {
		missing[name] = config.jumpsOf(name)
	}
	return newRuleSet(config, table, !ipv6).text(nil, missing), nil
}
