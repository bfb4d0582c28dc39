package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// podFigures are what was measured of one agent.
type podFigures struct {
	starts, removes, crashes, together []time.Duration
	cleared                            time.Duration
	own, node                          weight
}

// print makes the table: a column for each agent and limit.
func (s *podStage) print() {
	o := s.o
	fmt.Printf("Median, and 90th percentile in brackets, in ms: %d pods alone, %d crashes, grace %d s.\n", o.cycles, o.crashes, graceSeconds)
	fmt.Printf("%d pods at once, then idle: CPU over %v in %% of a core, memory as PSS.\n\n", o.pods, o.idle)
	head, line := "|", "|---|"
	for _, a := range s.agents {
		head, line = head+" | "+a.name, line+"---|"
	}
	for _, l := range s.limits {
		head, line = head+" | "+l.name, line+"---|"
	}
	fmt.Println(head + " |\n" + line)
	both := func(all []time.Duration) string {
		if len(all) == 0 {
			return ""
		}
		return fmt.Sprintf("%.0f (%.0f)", ms(all, 0.5), ms(all, 0.9))
	}
	ends := func(all []time.Duration) string {
		if len(all) == 0 {
			return ""
		}
		return fmt.Sprintf("%.0f, %.0f", ms(all, 0.5), ms(all, 1))
	}
	core := func(w weight) string {
		return fmt.Sprintf("%.1f %%, %.0f MB", 100*float64(w.cpu)/float64(o.idle), float64(w.pss)/1e6)
	}
	many := func(of func(*agent) string) func(*agent) string {
		return func(a *agent) string {
			if len(a.together) == 0 {
				return ""
			}
			return of(a)
		}
	}
	for _, row := range []struct {
		what  string
		agent func(*agent) string
		limit func(*limit) string
	}{
		{"one pod: manifest written to process running", func(a *agent) string { return both(a.starts) }, func(l *limit) string { return both(l.starts) }},
		{"crash to running again, first restart", func(a *agent) string { return both(a.crashes) }, func(l *limit) string { return both(l.crashes) }},
		{fmt.Sprintf("manifest removed to all gone, %d s of it grace", graceSeconds), func(a *agent) string { return both(a.removes) }, nil},
		{fmt.Sprintf("%d pods at once: the middle one, the last one running", o.pods), func(a *agent) string { return ends(a.together) },
			func(l *limit) string { return ends(l.together) }},
		{fmt.Sprintf("%d manifests removed to all gone", o.pods), many(func(a *agent) string { return fmt.Sprintf("%.0f", float64(a.cleared)/1e6) }), nil},
		{fmt.Sprintf("idle with %d pods: the agent alone", o.pods), many(func(a *agent) string { return core(a.own) }), nil},
		{fmt.Sprintf("idle with %d pods: agent, runtime and shims", o.pods), many(func(a *agent) string { return core(a.node) }), nil},
	} {
		cells := []string{row.what}
		for _, a := range s.agents {
			cells = append(cells, row.agent(a))
		}
		for _, l := range s.limits {
			cell := ""
			if row.limit != nil {
				cell = row.limit(l)
			}
			cells = append(cells, cell)
		}
		if slices.ContainsFunc(cells[1:], func(c string) bool { return c != "" }) {
			fmt.Println("| " + strings.Join(cells, " | ") + " |")
		}
	}
}
