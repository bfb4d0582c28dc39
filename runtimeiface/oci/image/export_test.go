package image

// The parsers of outside text, for tables and fuzzing.
var (
	Loopback  = loopback
	EntryPath = entryPath
	Whiteout  = whiteout
)

// Canonical gives the full name of a reference.
func Canonical(ref string) (string, error) {
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	return r.canonical(), nil
}
