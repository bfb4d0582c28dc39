package metrics

import (
	_ "embed"
	"regexp"
	"strings"
	"testing"
	"time"
)

//go:embed FIGURES.md
var figuresText string

// documented reads the tables of FIGURES.md below a heading: cells by family.
func documented(t *testing.T, heading string) map[string][]string {
	t.Helper()
	_, below, found := strings.Cut(figuresText, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no heading %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	rows := map[string][]string{}
	for line := range strings.Lines(below) {
		if line[0] != '|' {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if name := strings.Trim(cells[0], "`"); name != cells[0] {
			if rows[name] != nil {
				t.Errorf("%s stands twice", name)
			}
			rows[name] = cells
		}
	}
	return rows
}

// TestEveryFamilyIsDocumented holds FIGURES.md to the families: all of them, no
// others, with type and of whom.
func TestEveryFamilyIsDocumented(t *testing.T) {
	for heading, families := range map[string][]family{"/metrics/cadvisor": cadvisorFamilies, "/metrics/resource": resourceFamilies} {
		rows := documented(t, heading)
		for _, f := range families {
			row := rows[f.name]
			delete(rows, f.name)
			if row == nil {
				t.Errorf("%s: %s is not documented", heading, f.name)
				continue
			}
			typ := "gauge"
			if f.counter {
				typ = "counter"
			}
			if row[1] != typ || row[2] == "" {
				t.Errorf("%s: %s is a %s, the document says %q of it", heading, f.name, typ, row[1:])
			}
			if heading == "/metrics/resource" || f.whole != nil {
				continue
			}
			of := ""
			for i, letter := range "NSPCB" {
				if f.who.has(1 << i) {
					of += string(letter)
				}
			}
			if strings.HasPrefix(f.name, "container_network_") {
				of = "NP" // who has no network of its own has no interfaces
			}
			if len(row) != 6 || row[3] == "" || row[4] == "" || row[5] != of {
				t.Errorf("%s: of %s, the document says %q", f.name, of, row)
			}
		}
		for name := range rows {
			t.Errorf("%s: %s is documented, and nothing writes it", heading, name)
		}
	}
}

// TestEveryFileIsDocumented: no file is read that FIGURES.md does not name.
func TestEveryFileIsDocumented(t *testing.T) {
	named := map[string]bool{}
	for _, code := range regexp.MustCompile("`[^`\n]+`").FindAllString(figuresText, -1) {
		file, _, _ := strings.Cut(strings.Trim(code, "`"), " ")
		named[file] = true
	}
	files := 0
	for _, version := range []int{1, 2} {
		var l layout
		for i := range l {
			l[i] = place{version, "/"}
		}
		l[controllerPressure].version = 2
		r := reader{plan: makePlan(l, []uint64{2 << 20})}
		for _, s := range r.plan.sources {
			files++
			if name := strings.Replace(s.name, ".2MB.", ".SIZE.", 1); !named[name] {
				t.Errorf("v%d reads %s, which is not documented", version, name)
			}
		}
	}
	if files < 40 {
		t.Errorf("only %d files are read", files)
	}
	r := newReader("testdata/v2/proc", "testdata/v2/sys", layout{}, 0, time.Now)
	for _, s := range r.node.sources {
		file := strings.TrimPrefix(s.name, "thread-self/")
		if !named[file] && !named[strings.SplitN(file, "/", 2)[0]] && !(strings.HasPrefix(file, "sys/kernel/") && named["sys/kernel"]) {
			t.Errorf("/proc/%s is read, which is not documented", s.name)
		}
	}
}
