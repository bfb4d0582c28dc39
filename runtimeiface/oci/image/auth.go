package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/dockerconfig"
)

const (
	// maxAuthFile is more than a Kubernetes Secret can hold (1 MiB).
	maxAuthFile = 4 << 20
	// maxCredentials is how many of the credentials that fit are tried.
	maxCredentials = 8
)

// Auth is what a registry may be shown. Its zero value is anonymous.
type Auth = dockerconfig.Auth

// secrets are the parts that no text may show.
func secrets(a Auth) []string {
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
	return lookupAuth(data, host, repo)
}

func lookupAuth(data []byte, host, repo string) ([]Auth, error) {
	config, err := dockerconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	found, err := dockerconfig.Lookup(host, repo, config)
	if errors.Is(err, runtimeiface.ErrNotSupported) {
		err = notSupported{err}
	}
	return found, err
}

// notSupported is an error of a config.json that asks for a credential helper.
type notSupported struct{ error }

// Is tells so in this package's words.
func (notSupported) Is(target error) bool { return target == ErrNotSupported }

func encodeBasic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
