package deptest_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodekit/nodekit/internal/deptest"
)

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

func (l listed) own() (string, bool) {
	if l.ImportPath == deptest.Module {
		return "", true
	}
	return strings.CutPrefix(l.ImportPath, deptest.Module+"/")
}

// graph is every package of the module and what it needs, on Linux.
var graph = sync.OnceValues(func() (map[string]listed, error) {
	command := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps,Module", deptest.Module+"/...")
	command.Env = append(command.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := command.Output()
	if err != nil {
		return nil, err
	}
	packages := map[string]listed{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages[l.ImportPath] = l
	}
})

func load(t *testing.T) map[string]listed {
	t.Helper()
	packages, err := graph()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return packages
}

func TestWhoImportsWhom(t *testing.T) {
	for _, l := range load(t) {
		from, own := l.own()
		if !own {
			continue
		}
		for _, imported := range l.Imports {
			to, own := listed{ImportPath: imported}.own()
			if own && !deptest.MayImport(from, to) {
				t.Errorf("%s imports %s, which the table of CONTRIBUTING.md forbids", from, to)
			}
		}
	}
}

func TestThirdPartyImportsHaveReasons(t *testing.T) {
	packages := load(t)
	used := map[string]bool{}
	for _, l := range packages {
		from, own := l.own()
		if !own || strings.HasPrefix(from, "examples") {
			continue
		}
		for _, imported := range l.Imports {
			dep := packages[imported]
			if dep.Standard || dep.Module == nil || dep.Module.Path == deptest.Module {
				continue
			}
			place, ok := reason(from, dep.Module.Path)
			if !ok {
				t.Errorf("%s imports %s: internal/deptest/rules.go gives no reason for %s", from, imported, dep.Module.Path)
			}
			used[place+" "+dep.Module.Path] = true
		}
	}
	for place, modules := range deptest.Reasons {
		for module := range modules {
			if !used[place+" "+module] {
				t.Errorf("rules.go gives a reason for %s in %s, which does not import it", module, place)
			}
		}
	}
}

func reason(from, module string) (place string, ok bool) {
	for place = from; place != "."; place = path.Dir(place) {
		if deptest.Reasons[place][module] != "" {
			return place, true
		}
	}
	return "", false
}

func TestFrontPackagesStayLight(t *testing.T) {
	packages := load(t)
	for _, front := range deptest.Fronts {
		l, ok := packages[deptest.Module+"/"+front]
		if !ok {
			t.Errorf("front package %s is not there", front)
			continue
		}
		modules, count := map[string]bool{}, 0
		for _, name := range l.Deps {
			dep := packages[name]
			if dep.Standard || dep.Module == nil || dep.Module.Path == deptest.Module {
				continue
			}
			count++
			modules[dep.Module.Path] = true
		}
		t.Logf("%-14s %3d packages of %2d modules", front, count, len(modules))
		if count >= deptest.MaxPackages || len(modules) >= deptest.MaxModules {
			t.Errorf("%s weighs %d packages of %d modules; it stays below %d and %d",
				front, count, len(modules), deptest.MaxPackages, deptest.MaxModules)
		}
	}
}

func TestPartsAreLight(t *testing.T) {
	packages := load(t)
	for name, part := range deptest.Parts {
		l, ok := packages[deptest.Module+"/"+name]
		if !ok {
			t.Errorf("%s is not there", name)
			continue
		}
		count := 0
		for _, needed := range l.Deps {
			dep := packages[needed]
			if own, ok := dep.own(); ok && !slices.Contains(part.Own, own) {
				t.Errorf("%s needs %s, which is none of its parts", name, own)
			} else if !ok && !dep.Standard {
				count++
			}
		}
		t.Logf("%-22s %2d packages", name, count)
		if count > part.Packages {
			t.Errorf("%s weighs %d packages; it stays within %d", name, count, part.Packages)
		}
	}
}

func TestMayImport(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"podlifecycle", "runtimeiface", true},
		{"podlifecycle/volume", "runtimeiface", true},
		{"podlifecycle", "runtimeiface/dockerconfig", true},
		{"podlifecycle", "runtimeiface/oci", false},
		{"metrics", "runtimeiface", false},
		{"runtimeiface/oci", "runtimeiface", true},
		{"runtimeiface", "podlifecycle", false},
		{"statusserver", "podlifecycle", false},
		{"proxyrules/nftables", "proxyrules", true},
		{"internal/kerneltest", "metrics", false},
		{"metrics", "internal/kerneltest", false},
		{"examples/quickstart", "statusserver", true},
	} {
		if got := deptest.MayImport(c.from, c.to); got != c.want {
			t.Errorf("MayImport(%s, %s) = %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
