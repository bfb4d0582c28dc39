package image

// The parsers of outside text, for tables and fuzzing.
var (
	Loopback      = loopback
	EntryPath     = entryPath
	Whiteout      = whiteout
	MatchRegistry = matchRegistry
	RetryAfter    = retryAfter
	Redact        = redact
)

// Canonical gives the full name of a reference.
func Canonical(ref string) (string, error) {
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	return r.canonical(), nil
}

// LookupAuth gives the credentials that a config.json has for a repository.
func LookupAuth(data []byte, host, repo string) ([]Auth, error) {
	c, err := parseAuthConfig(data)
	if err != nil {
		return nil, err
	}
	return c.lookup(host, repo)
}
