package doctest_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// public calls f for each directory that holds an importable, public package.
func public(t *testing.T, f func(t *testing.T, dir string, files []*ast.File, fset *token.FileSet)) {
	t.Helper()
	err := filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if dir != root && (slices.Contains([]string{"internal", "examples", "test", "testdata", "bin"}, entry.Name()) || strings.HasPrefix(entry.Name(), ".")) {
			return filepath.SkipDir
		}
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(paths) == 0 {
			return err
		}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, path := range paths {
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			files = append(files, file)
		}
		if files[0].Name.Name == "main" {
			return nil
		}
		t.Run(strings.TrimPrefix(dir, root+"/"), func(t *testing.T) { f(t, dir, files, fset) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func isTest(fset *token.FileSet, file *ast.File) bool {
	return strings.HasSuffix(fset.Position(file.Pos()).Filename, "_test.go")
}

func TestPackagesExplainThemselvesInDocGo(t *testing.T) {
	public(t, func(t *testing.T, dir string, files []*ast.File, fset *token.FileSet) {
		for _, file := range files {
			inDoc := filepath.Base(fset.Position(file.Pos()).Filename) == "doc.go"
			switch {
			case inDoc && !strings.HasPrefix(file.Doc.Text(), "Package "+file.Name.Name+" "):
				t.Error("the comment in doc.go does not start with Package and its name")
			case !inDoc && !isTest(fset, file) && file.Doc != nil:
				t.Errorf("%s has a package comment; it belongs in doc.go", fset.Position(file.Pos()).Filename)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "doc.go")); err != nil {
			t.Error(err)
		}
	})
}

func TestPackagesShowAnExampleWithOutput(t *testing.T) {
	public(t, func(t *testing.T, dir string, files []*ast.File, fset *token.FileSet) {
		if dir == root {
			return // the map holds no code
		}
		var tests []*ast.File
		for _, file := range files {
			if isTest(fset, file) {
				tests = append(tests, file)
			}
		}
		if !slices.ContainsFunc(doc.Examples(tests...), func(e *doc.Example) bool { return e.Output != "" }) {
			t.Error("no Example with an // Output: comment")
		}
	})
}

func TestExportedNamesHaveComments(t *testing.T) {
	public(t, func(t *testing.T, dir string, files []*ast.File, fset *token.FileSet) {
		for _, file := range files {
			if isTest(fset, file) {
				continue
			}
			for _, declaration := range file.Decls {
				for _, name := range bare(declaration) {
					t.Errorf("%s: %s has no comment", fset.Position(name.Pos()), name.Name)
				}
			}
		}
	})
}

// bare gives the exported names of a declaration that no comment stands at.
func bare(declaration ast.Decl) []*ast.Ident {
	var names []*ast.Ident
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		fixed := d.Name.Name == "Error" || d.Name.Name == "Unwrap" // the language says what they mean
		if d.Name.IsExported() && !fixed && d.Doc == nil && (d.Recv == nil || receiverExported(d.Recv)) {
			names = append(names, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					names = append(names, s.Name)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						names = append(names, name)
					}
				}
			}
		}
	}
	return names
}

func receiverExported(list *ast.FieldList) bool {
	expression := list.List[0].Type
	if star, ok := expression.(*ast.StarExpr); ok {
		expression = star.X
	}
	name, ok := expression.(*ast.Ident)
	return ok && name.IsExported()
}

var (
	target  = regexp.MustCompile("`make ([a-z0-9-]+)")
	link    = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	goFiles = regexp.MustCompile("`((?:podlifecycle|runtimeiface|metrics|proxyrules|statusserver|examples|test|internal)/[a-z0-9_/.-]+)`")
)

func TestMarkdownIsTrue(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, match := range target.FindAllSubmatch(text, -1) {
			if !strings.Contains(string(makefile), "\n"+string(match[1])+":") {
				t.Errorf("%s names make %s, which the Makefile lacks", name, match[1])
			}
		}
		for _, pattern := range []*regexp.Regexp{link, goFiles} {
			for _, match := range pattern.FindAllSubmatch(text, -1) {
				path := string(match[1])
				if strings.Contains(path, "://") {
					continue
				}
				if _, err := os.Stat(filepath.Join(root, path)); err != nil {
					t.Errorf("%s names %s: %v", name, path, err)
				}
			}
		}
	}
}
