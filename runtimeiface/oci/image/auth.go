package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	// maxAuthFile is more than a Kubernetes Secret can hold (1 MiB).
	maxAuthFile = 4 << 20
	// maxCredentials is how many of the credentials that fit are tried.
	maxCredentials = 8
)

// Auth is what a registry may be shown. Its zero value is anonymous. Printed
// with package fmt it tells nothing.
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

// secrets are the parts that no text may show.
func (a Auth) secrets() []string {
	var list []string
	for _, s := range []string{a.Password, a.IdentityToken, a.RegistryToken} {
		if s != "" {
			list = append(list, s)
		}
	}
	if a.Password != "" {
		list = append(list, encodeBasic(a.Username, a.Password))
	}
	return list
}

// credentials gives what to show to the host of repo, the best first, never
// nothing; what kept some from being found comes as error, which counts only
// if access is refused.
func (s *Store) credentials(ctx context.Context, host, repo string) ([]Auth, error) {
	if s.cfg.Auth != nil {
		auth, err := s.cfg.Auth(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("find credentials for %s: %w", host, err)
		}
		if auth != (Auth{}) {
			return []Auth{auth}, nil
		}
	}
	var found []Auth
	var errs []error
	for _, file := range s.cfg.AuthFiles {
		auths, err := readAuthFile(file, host, repo)
		if err != nil {
			errs = append(errs, fmt.Errorf("credentials in %s: %w", file, err))
		}
		for _, a := range auths {
			if !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	if len(found) == 0 {
		found = []Auth{{}}
	}
	return found[:min(len(found), maxCredentials)], chain(errs)
}

func readAuthFile(file, host, repo string) ([]Auth, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxAuthFile {
		return nil, fmt.Errorf("more than %d bytes", maxAuthFile)
	}
	config, err := parseAuthConfig(data)
	if err != nil {
		return nil, err
	}
	return config.lookup(host, repo)
}

// matchRegistry tells whether the key of an auths entry fits a repository, as
// the kubelet's URLsMatch does (pkg/credentialprovider of Kubernetes v1.37):
// the port is the same, the host has as many labels, each of which may be a
// pattern, and the path begins with the key's.
func matchRegistry(key, host, repo string) bool {
	keyHost, keyPath := cutKey(key)
	keyName, keyPort, _ := cutPort(keyHost)
	name, port, _ := cutPort(host)
	if keyPort != port || !strings.HasPrefix("/"+repo, keyPath) {
		return false
	}
	patterns, labels := strings.Split(keyName, "."), strings.Split(name, ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i, pattern := range patterns {
		if pattern == labels[i] { // [::1] is no pattern
			continue
		}
		if ok, err := path.Match(pattern, labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// cutKey splits "https://index.docker.io/v1/" and "host:5000/team" into host
// and path. The roots of the registry API, /v1/ and /v2/, are no path.
func cutKey(key string) (host, path string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, ok := strings.Cut(key, "/")
	if !ok {
		return host, ""
	}
	path = "/" + path
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/") {
		path = path[len("/v1"):]
	}
	if path == "/" {
		path = ""
	}
	return host, path
}
