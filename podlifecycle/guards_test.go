package podlifecycle_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guard is what keeps the product out of a trap, and what stands in its place
// in a build without it. Within out, guarded becomes a question at run time, so
// that one build serves every guard.
type guard struct {
	trap string // the test that must fail without it
	file string // below this package
	code string // as it stands, once
	out  string // without the guard; OUT is true while this one is out
}

var guards = []guard{
	{"TestTrap1", "admit_judge.go", "if a.admitted != b.admitted {", "if a.admitted != b.admitted && !OUT {"},
	{"TestTrap1", "admit_judge.go", "if w.admitted && !over {", "if w.admitted && (!over || OUT) {"},
	{"TestTrap2", "admit_judge.go", "if other := j.names[w.key]; other != nil {", "if other := j.names[w.key]; other != nil && !OUT {"},
	{"TestTrap3", "plan.go", "v.cur == nil || !alive(v.cur) && alive(got)", "v.cur == nil || !OUT && !alive(v.cur) && alive(got)"},
	{"TestTrap3", "worker.go", "if w.unseen(a, now) {", "if !OUT && w.unseen(a, now) {"},
	{"TestTrap4", "plan_container.go", "past := p.mainStarted()", "past := p.mainStarted() && !OUT"},
	{"TestTrap5", "worker.go", "Seed: w.seeds[v.cur.ID]}", "Seed: map[bool]map[probe.Kind]probe.Result{false: w.seeds[v.cur.ID]}[OUT]}"},
	{"TestTrap6", "plan_end.go", "if !p.o.Ended.Persisted {", "if !p.o.Ended.Persisted && !OUT {"},
	{"TestTrap6", "plan.go", "case terminal(p.o.Prior.Phase):", "case terminal(p.o.Prior.Phase) && !OUT:"},
	{"TestTrap7", "labels.go", "return version == hashVersion && have", "return (OUT || version == hashVersion) && have"},
	{"TestTrap8", "act.go", "w.ended.Torn = err == nil;", "w.ended.Torn = err == nil || OUT;"},
	{"TestTrap9", "manager.go", "if missed {", "if missed && !OUT {"},
	{"TestTrap10", "plan_end.go", "if _, killed := p.o.Flights[c.Name]; n < last &&", "if _, killed := p.o.Flights[c.Name]; !OUT && n < last &&"},
	{"TestTrap11", "restart.go", "return max(p.now.Sub(got.FinishedAt), p.o.ExitedFor[got.ID])", "if OUT {\n\t\treturn p.now.Sub(got.FinishedAt)\n\t}\n\treturn max(p.now.Sub(got.FinishedAt), p.o.ExitedFor[got.ID])"},
	{"TestTrap12", "journal/journal.go", "if found.Lost > 0 || found.Err != nil {", "if found.Lost > 0 && os.Getenv(\"NODEKIT_GUARD_OUT\") == \"journal\" {\n\t\treturn found, errors.New(\"damaged\")\n\t}\n\tif found.Lost > 0 || found.Err != nil {"},
	{"TestTrap13", "admit.go", "case len(set.Waiting) > 0 && names", "case !OUT && len(set.Waiting) > 0 && names"},
	{"TestTrap14", "observed.go", "if other.deadline().Before(merged.deadline()) {", "if OUT || other.deadline().Before(merged.deadline()) {"},
	{"TestTrap14", "observed.go", "found.Since = now.Add(-max(0, now.Round(0).Sub(e.Since)))", "if OUT {\n\t\treturn e\n\t}\n\tfound.Since = now.Add(-max(0, now.Round(0).Sub(e.Since)))"},
	{"TestTrap15", "worker.go", "w.save(false) // what is told must not be forgotten by a crash", "if !OUT {\n\t\t\tw.save(false)\n\t\t}"},
	{"TestTrap16", "plan_container.go", "if p.elsewhere(v) {", "if !OUT && p.elsewhere(v) {"},
}

// guardOut names the guard that a build of the next test leaves out, by its
// number.
const guardOut = "NODEKIT_GUARD_OUT"

// Each trap's test fails once the guard is taken out, or it would guard
// nothing: a build of this package's tests in which each guard can be left out
// runs them with each.
func TestTrapsNoticeTheirGuard(t *testing.T) {
	binary := buildUnguarded(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	run := func(pattern, out string) (string, error) {
		command := exec.CommandContext(t.Context(), binary, "-test.run", pattern, "-test.timeout", "1m")
		command.Dir = here
		command.Env = append(os.Environ(), guardOut+"="+out)
		text, err := command.CombinedOutput()
		return string(text), err
	}
	if text, err := run("^TestTrap[0-9]", ""); err != nil {
		t.Fatalf("with every guard: %v\n%s", err, text)
	}
	trapped := map[string]bool{}
	for i, g := range guards {
		trapped[g.trap] = true
		t.Run(fmt.Sprintf("%s/%d", g.trap, i), func(t *testing.T) {
			t.Parallel()
			text, err := run("^"+g.trap+"[A-Z]", g.number(i))
			switch {
			case err == nil:
				t.Errorf("nothing fails without %q in %s", g.code, g.file)
			case !strings.Contains(text, "--- FAIL: "+g.trap):
				t.Errorf("without %q in %s it does not fail in order: %v\n%s", g.code, g.file, err, text)
			}
		})
	}
	var source []byte
	for _, name := range []string{"trap_test.go", "trap_later_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	for _, found := range regexp.MustCompile(`(?m)^func (TestTrap\d+)[A-Z]`).FindAllSubmatch(source, -1) {
		if name := string(found[1]); !trapped[name] {
			t.Errorf("%s has no guard in the list", name)
		}
	}
}

func (g guard) number(i int) string {
	if g.file != filepath.Base(g.file) {
		return filepath.Dir(g.file) // of another package, which asks for itself
	}
	return fmt.Sprint(i)
}

// buildUnguarded builds this package's tests with every guard put in question.
// The tree stays as it is: the compiler is given other files in its place.
func buildUnguarded(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	texts, question := map[string]string{}, regexp.MustCompile(`\bOUT\b`)
	for i, g := range guards {
		path := filepath.Join(here, g.file)
		if texts[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(text)
		}
		if n := strings.Count(texts[path], g.code); n != 1 {
			t.Fatalf("%s has %q %d times: the guard of %s has changed, and its line here must", g.file, g.code, n, g.trap)
		}
		texts[path] = strings.Replace(texts[path], g.code, question.ReplaceAllString(g.out, fmt.Sprintf("guardIsOut(%d)", i)), 1)
	}
	texts[filepath.Join(here, "guard_is_out.go")] = fmt.Sprintf(`package podlifecycle

import (
	"os"
	"strconv"
)

func guardIsOut(number int) bool { return os.Getenv(%q) == strconv.Itoa(number) }
`, guardOut)
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range texts {
		copied := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = copied
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "unguarded.test")
	command := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", binary, ".")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}
