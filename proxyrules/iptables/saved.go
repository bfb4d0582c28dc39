package iptables

import (
	"slices"
	"strings"
)

// saved is what iptables-save tells of our chains.
type saved struct {
	chains map[string][]string // by table, sorted as told
	jumps  map[string][]string // rules of the kernel's chains that lead to ours, without -A
	counts map[string]int      // rules of each chain of ours, by table and name
}

// parseSaved reads the output of iptables-save:
//
//	*nat
//	:PREROUTING ACCEPT [0:0]
//	:NODEKIT-SERVICES - [0:0]
//	-A PREROUTING -j NODEKIT-SERVICES
//	COMMIT
func parseSaved(text, prefix string) *saved {
	s := &saved{chains: map[string][]string{}, jumps: map[string][]string{}, counts: map[string]int{}}
	table := ""
	own := func(name string) bool { return strings.HasPrefix(name, prefix+"-") }
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); own(name) {
				s.chains[table] = append(s.chains[table], name)
			}
		case strings.HasPrefix(line, "-A "):
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			if own(fields[1]) {
				s.counts[table+" "+fields[1]]++
				continue
			}
			for i := 2; i+1 < len(fields); i++ {
				if (fields[i] == "-j" || fields[i] == "-g") && own(fields[i+1]) {
					s.jumps[table] = append(s.jumps[table], strings.TrimPrefix(line, "-A "))
				}
			}
		}
	}
	return s
}

// present says that anything of ours is there.
func (s *saved) present() bool { return len(s.chains["nat"])+len(s.chains["filter"]) > 0 }

// differences are the chains that a rule set does not have, and its jumps that
// are not there.
func (s *saved) differences(want *ruleSet) (stale, missing map[string][]string) {
	stale, missing = map[string][]string{}, map[string][]string{}
	for _, table := range tableNames {
		wanted := make(map[string]bool, len(want.order[table]))
		for _, chain := range want.order[table] {
			wanted[want.name(chain)] = true
		}
		for _, name := range s.chains[table] {
			if !wanted[name] {
				stale[table] = append(stale[table], name)
			}
		}
		for _, jump := range want.config.jumpsOf(table) {
			if !slices.Contains(s.jumps[table], jump) {
				missing[table] = append(missing[table], jump)
			}
		}
	}
	return stale, missing
}

// as says that the kernel has the chains of a rule set, each with as many rules.
func (s *saved) as(want *ruleSet) bool {
	stale, missing := s.differences(want)
	for _, table := range tableNames {
		if len(stale[table])+len(missing[table]) > 0 || len(s.chains[table]) != len(want.order[table]) {
			return false
		}
		for _, chain := range want.order[table] {
			if s.counts[table+" "+want.name(chain)] != len(want.rules[chain]) {
				return false
			}
		}
	}
	return true
}

// removal is the text that takes all of ours away.
func (s *saved) removal() string {
	var b strings.Builder
	for _, table := range tableNames {
		if len(s.chains[table]) == 0 {
			continue
		}
		b.WriteString("*" + table + "\n")
		for _, name := range s.chains[table] {
			b.WriteString(":" + name + " - [0:0]\n") // flushes it
		}
		for _, jump := range s.jumps[table] {
			b.WriteString("-D " + jump + "\n")
		}
		for _, name := range s.chains[table] {
			b.WriteString("-X " + name + "\n")
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
