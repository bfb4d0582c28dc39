package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// A source is a place that an image can come from during one pull: a mirror,
// or the registry that its name says.
type source struct {
	store  *Store
	mirror string // its host, or "" for the registry
	repo   name.Repository
	own    Auth                   // the pull's, for the registry alone
	plain  func(host string) bool // who may be spoken to without TLS

	mu     sync.Mutex
	remote *remote // nil before the first log-in
}

// sources gives the mirrors of the reference's registry in their order, then
// the registry.
func (s *Store) sources(ref reference, own Auth) ([]*source, error) {
	host, path := ref.Context().RegistryStr(), ref.Context().RepositoryStr()
	var list []*source
	add := func(mirror, host, path string, own Auth, plain func(string) bool) error {
		repo, err := parseRepo(host, path, plain(host))
		list = append(list, &source{store: s, mirror: mirror, repo: repo, own: own, plain: plain})
		return err
	}
	for _, m := range s.cfg.Mirrors[canonicalHost(host)] {
		plain := func(h string) bool { return s.plain(h) || m.PlainHTTP && h == m.Host }
		if err := add(m.Host, m.Host, strings.TrimPrefix(m.Prefix+"/"+path, "/"), Auth{}, plain); err != nil {
			return nil, err
		}
	}
	return list, add("", host, path, own, s.plain)
}

func (s *Store) plain(host string) bool {
	return loopback(host) || s.cfg.PlainHTTP != nil && s.cfg.PlainHTTP(host)
}

// do logs in, if that is not done yet, and runs f. Credentials that the host
// refuses are followed by the next; hosts hide what is not for all as missing.
func (s *source) do(ctx context.Context, f func(*remote) error) error {
	err := s.try(ctx, f)
	if err != nil && s.mirror != "" {
		return fmt.Errorf("mirror %s: %w", s.mirror, err)
	}
	return err
}

func (s *source) try(ctx context.Context, f func(*remote) error) error {
	s.mu.Lock()
	r := s.remote
	s.mu.Unlock()
	if r != nil {
		return f(r)
	}
	host := s.repo.RegistryStr()
	auths, lookup := []Auth{s.own}, error(nil)
	if s.own == (Auth{}) {
		if auths, lookup = s.store.credentials(ctx, host, s.repo.RepositoryStr()); len(auths) == 0 {
			return mark(ErrUnavailable, lookup)
		}
	}
	var err error
	for _, auth := range auths {
		r, err = s.store.dial(ctx, s.repo, auth, s.plain)
		if err == nil {
			err = f(r)
		}
		if !refused(err) {
			if r != nil {
				s.mu.Lock()
				s.remote = r
				s.mu.Unlock()
			}
			return err
		}
	}
	switch {
	case lookup != nil:
		err = chain([]error{err, lookup})
	case auths[0] == (Auth{}) && errors.Is(err, ErrUnauthorized):
		err = fmt.Errorf("%w; there are no credentials for %s", err, canonicalHost(host))
	}
	return err
}

// refused tells whether other credentials might do better.
func refused(err error) bool { return errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrNotFound) }

// combine makes one error of what each source said: the kind is that of the
// main one, the text has all.
func combine(errs []error, main int) error {
	if len(errs) == 0 {
		return nil
	}
	err := errs[main]
	for i, other := range errs {
		if i != main {
			err = fmt.Errorf("%w; %s", err, other.Error()) // its kind must not count
		}
	}
	return err
}

// resolveFrom asks one source after the other, and gives the sources with the
// one that knew the image first.
func (s *Store) resolveFrom(ctx context.Context, sources []*source, id string, p Platform) (resolved, []*source, error) {
	var errs []error
	for i, src := range sources {
		var what resolved
		err := src.do(ctx, func(r *remote) (err error) {
			what, err = r.resolve(ctx, id, p)
			return err
		})
		if err == nil {
			return what, slices.Concat(sources[i:], sources[:i]), nil
		}
		if ctx.Err() != nil {
			return resolved{}, nil, ctx.Err()
		}
		s.cfg.Logger.V(4).Info("source does not give the image", "cause", err.Error())
		errs = append(errs, err)
	}
	// The registry itself knows best what there is and who may have it.
	return resolved{}, nil, combine(errs, len(errs)-1)
}
