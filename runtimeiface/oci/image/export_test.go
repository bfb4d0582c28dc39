package image

import "github.com/google/go-containerregistry/pkg/v1/types"

// The parsers of outside text, for tables and fuzzing.
var (
	Loopback   = loopback
	EntryPath  = entryPath
	Whiteout   = whiteout
	LookupAuth = lookupAuth
	RetryAfter = retryAfter
	Redact     = redact
)

// Canonical gives the full name of a reference.
func Canonical(ref string) (string, error) {
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	return r.canonical(), nil
}

// ReadManifest tells what a manifest is, and what an index gives for p.
func ReadManifest(data []byte, header string, p Platform) (string, error) {
	kind, err := kindOf(data, types.MediaType(header))
	if err != nil || !kind.IsIndex() {
		return "", err
	}
	desc, err := choose(data, p)
	return desc.Digest.String(), err
}
