package dockerconfig

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Auth is what a registry may be shown. Its zero value is anonymous. Printed with
// package fmt it tells nothing.
type Auth struct {
	Username, Password string
	// IdentityToken is exchanged for an access token.
	IdentityToken string
	// RegistryToken is sent as bearer token as it is.
	RegistryToken string
}

// Format keeps credentials out of whatever prints an Auth.
func (a Auth) Format(w fmt.State, _ rune) {
	if a == (Auth{}) {
		_, _ = io.WriteString(w, "anonymous")
		return
	}
	_, _ = io.WriteString(w, "credentials")
}

// Config is the part of docker's config.json that tells of credentials:
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
//
// Its zero value has none.
type Config struct {
	auths   map[string]entry
	helpers map[string]string
	store   string
}

type entry struct {
	Auth          string `json:"auth"` // base64 of username:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Parse reads a config.json.
func Parse(data []byte) (Config, error) {
	var file struct {
		Auths       map[string]entry  `json:"auths"`
		CredHelpers map[string]string `json:"credHelpers"`
		CredsStore  string            `json:"credsStore"`
	}
	err := decode(data, &file)
	return Config{file.Auths, file.CredHelpers, file.CredsStore}, err
}

// ParseLegacy reads a .dockercfg, which is no more than what stands in "auths".
func ParseLegacy(data []byte) (Config, error) {
	var c Config
	err := decode(data, &c.auths)
	return c, err
}

func decode(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON from byte %d on", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("byte %d: wrong type of value", kind.Offset)
	}
	return errors.New("no JSON")
}

// Lookup gives the credentials for a repository of a host, the most specific key
// first; of equal keys, those of an earlier config. Entries that fit and cannot be
// used are told, joined by semicolons, and others used. runtimeiface.ErrNotSupported:
// a credential helper would have to be run, and there is nothing else.
func Lookup(host, repo string, configs ...Config) ([]Auth, error) {
	type match struct {
		key  string
		auth Auth
	}
	var found []match
	var errs []error
	for _, c := range configs {
		for _, key := range slices.SortedFunc(maps.Keys(c.auths), specific) {
			if !fits(key, host, repo) {
				continue
			}
			auth, err := c.auths[key].decode()
			if err != nil {
				errs = append(errs, fmt.Errorf("auths[%q]: %w", key, err))
				continue
			}
			if auth != (Auth{}) {
				found = append(found, match{bareKey(key), auth})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b match) int { return cmp.Compare(b.key, a.key) })
	var auths []Auth
	for _, m := range found {
		auths = append(auths, m.auth)
	}
	if len(auths) > 0 {
		return auths, chain(errs)
	}
	for _, c := range configs {
		for _, key := range slices.Sorted(maps.Keys(c.helpers)) {
			if fits(key, host, repo) {
				errs = append(errs, fmt.Errorf("%w: credHelpers[%q]", runtimeiface.ErrNotSupported, key))
			}
		}
		if c.store != "" {
			errs = append(errs, fmt.Errorf("%w: credsStore", runtimeiface.ErrNotSupported))
		}
	}
	return nil, chain(errs)
}

// specific orders keys: in reverse, a longer one comes before those that it begins with.
func specific(a, b string) int {
	return cmp.Or(cmp.Compare(bareKey(b), bareKey(a)), cmp.Compare(a, b))
}

func (e entry) decode() (Auth, error) {
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

// chain joins errors into one line.
func chain(errs []error) error {
	var all error
	for _, err := range errs {
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}
