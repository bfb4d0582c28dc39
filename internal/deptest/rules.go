package deptest

import "strings"

// Module is this module's path.
const Module = "github.com/nodekit/nodekit"

// Budget of a front package: what `go list -deps` may count beside the standard
// library and nodekit itself.
const (
	MaxPackages = 120
	MaxModules  = 25
)

// Fronts are the packages that a user imports first.
var Fronts = []string{"podlifecycle", "runtimeiface", "metrics", "proxyrules", "statusserver"}

// MayImport tells whether package from may import package to; both are paths
// below Module, "" being the root package. Tests are not asked.
func MayImport(from, to string) bool {
	fromFront, toFront := front(from), front(to)
	switch {
	case fromFront == "examples" || fromFront == "test":
		return true
	case fromFront == "internal":
		return toFront == "internal"
	case toFront == "internal":
		return false
	case fromFront == toFront:
		return true // a parent, a child or a sibling below it; Go refuses circles
	case fromFront == "podlifecycle":
		return to == "runtimeiface"
	default:
		return false
	}
}

func front(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

// Reasons says why a package, or every package below it, imports a third-party
// module directly. A longer path is asked first, then its parents.
var Reasons = map[string]map[string]string{}
