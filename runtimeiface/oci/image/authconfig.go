package image

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// authConfig is the part of docker's config.json that tells of credentials:
//
//	{
//	  "auths": {
//	    "registry.example": {"auth": "am9lOnNlY3JldA=="},
//	    "*.example:5000/team": {"username": "joe", "password": "secret"},
//	    "https://index.docker.io/v1/": {"identitytoken": "..."}
//	  },
//	  "credHelpers": {"gcr.io": "gcloud"},
//	  "credsStore": "desktop"
//	}
type authConfig struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of username:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// parseAuthConfig never quotes what it reads: it is secret.
func parseAuthConfig(data []byte) (authConfig, error) {
	var c authConfig
	err := json.Unmarshal(data, &c)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return c, nil
	case errors.As(err, &syntax):
		return c, fmt.Errorf("no JSON from byte %d on", syntax.Offset)
	case errors.As(err, &kind):
		return c, fmt.Errorf("byte %d: wrong type of value", kind.Offset)
	}
	return c, errors.New("no JSON")
}

// lookup gives the credentials for a repository, the most specific key first.
// Entries that fit and cannot be used are told, and others used.
func (c authConfig) lookup(host, repo string) ([]Auth, error) {
	var found []Auth
	var errs []error
	// In reverse order a longer key comes before those that it begins with.
	keys := slices.SortedFunc(maps.Keys(c.Auths), func(a, b string) int {
		return cmp.Or(cmp.Compare(bareKey(b), bareKey(a)), cmp.Compare(a, b))
	})
	for _, key := range keys {
		if !fits(key, host, repo) {
			continue
		}
		auth, err := c.Auths[key].decode()
		if err != nil {
			errs = append(errs, fmt.Errorf("auths[%q]: %w", key, err))
			continue
		}
		if auth != (Auth{}) {
			found = append(found, auth)
		}
	}
	if len(found) > 0 {
		return found, chain(errs)
	}
	for _, key := range slices.Sorted(maps.Keys(c.CredHelpers)) {
		if fits(key, host, repo) {
			errs = append(errs, fmt.Errorf("%w: credHelpers[%q]", ErrNotSupported, key))
		}
	}
	if c.CredsStore != "" {
		errs = append(errs, fmt.Errorf("%w: credsStore", ErrNotSupported))
	}
	return nil, chain(errs)
}

func bareKey(key string) string {
	host, path := cutKey(key)
	return host + path
}

// fits knows both names of Docker's registry.
func fits(key, host, repo string) bool {
	return matchRegistry(key, host, repo) ||
		canonicalHost(host) == "docker.io" && (matchRegistry(key, "docker.io", repo) || matchRegistry(key, "index.docker.io", repo))
}

func (e authEntry) decode() (Auth, error) {
	a := Auth{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		return a, nil
	}
	plain, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil {
		// Some programs leave the padding out.
		if plain, err = base64.RawStdEncoding.DecodeString(e.Auth); err != nil {
			return Auth{}, errors.New("auth is no base64")
		}
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return Auth{}, errors.New("auth is no username:password")
	}
	// Docker pads with zeros.
	a.Username, a.Password = user, strings.TrimRight(password, "\x00")
	return a, nil
}

func encodeBasic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
