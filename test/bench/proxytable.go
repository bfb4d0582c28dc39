package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// cell is the median of what was measured in a stage, or why nothing was.
func (f *proxyFigures) cell(o proxyOptions, stage string, list ...time.Duration) string {
	list = slices.DeleteFunc(slices.Clone(list), func(d time.Duration) bool { return d == 0 })
	switch {
	case len(list) == 0 && f.late == stage:
		return fmt.Sprintf("> %s", millis(o.limit))
	case len(list) == 0:
		return ""
	case len(list) == 1:
		return millis(list[0])
	}
	return fmt.Sprintf("%s (%s)", millis(median(list)), millis(slices.Max(list)))
}

func printProxies(o proxyOptions, n int, all []*proxyFigures) {
	fmt.Printf("\n%d Services of %d endpoints, each on one of %d nodes:\n\n", n, proxyEndpoints, proxyNodes)
	fmt.Println("| proxy | first load | start to loaded, CPU s | on full tables | CPU s | one endpoint | seen after | 100 Services | seen after | nothing changed | grown MB, after changes | biggest child MB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, f := range all {
		cell := func(stage string, list ...time.Duration) string { return f.cell(o, stage, list...) }
		cpu := func(d time.Duration) string {
			if d == 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", d.Seconds())
		}
		wall, memory, child := cell(stageLoad, f.loadWall), "", ""
		if f.loadCPU > 0 {
			wall += ", " + cpu(f.loadCPU)
		}
		if f.grown > 0 {
			memory = fmt.Sprintf("%.0f, %.0f", float64(f.grown)/1e6, float64(f.grownAfter)/1e6)
		}
		if f.child > 0 {
			child = fmt.Sprintf("%.0f", float64(f.child)/1e6)
		}
		fmt.Println("| " + strings.Join([]string{f.name, cell(stageLoad, f.load), wall,
			cell(stageRestart, f.restart), cpu(f.restartCPU), cell(stageChanges, f.one...), cell(stageChanges, f.oneSeen...),
			cell(stageChanges, f.hundred...), cell(stageChanges, f.hundredSeen...), cell(stageChanges, f.none...), memory, child}, " | ") + " |")
	}
	for _, f := range all {
		if len(f.repaired[0]) == 0 {
			continue
		}
		fmt.Print("\nAnother program changes nodekit's rules: from its notice to the repair, and from the end of that program until the repair is told.\n\n")
		fmt.Println("| nft ... | repaired | told |\n|---|---|---|")
		for i, edit := range disturbances {
			fmt.Printf("| %s | %s | %s |\n", edit, f.cell(o, stageRepairs, f.repaired[i]...), f.cell(o, stageRepairs, f.repairSeen[i]...))
		}
	}
}

func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

func millis(d time.Duration) string {
	switch v := float64(d) / 1e6; {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
