package credential

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/dockerconfig"
)

const (
	// pluginTimeout is how long a plug-in may take, as the kubelet has it.
	pluginTimeout = time.Minute
	maxAnswer     = 1 << 20
	// maxKept bounds the answers that are kept of one plug-in.
	maxKept = 1024
)

// Config of Plugins.
type Config struct {
	// Dir has the programs, absolute; required.
	Dir string
	// Providers are asked in this order.
	Providers []Provider
	// Clock; nil means the real one.
	Clock clock.PassiveClock
}

// Plugins asks credential provider plug-ins. Its methods may be used concurrently:
// a plug-in runs once at a time.
type Plugins struct {
	dir     string
	clock   clock.PassiveClock
	plugins []*plugin
}

type plugin struct {
	Provider
	running chan struct{} // held while the program runs

	mu    sync.Mutex
	cache map[string]answer // by image, registry or ""
}

type answer struct {
	auths map[string]runtimeiface.Auth // by what they fit
	until time.Time
}

// New checks config. It does no I/O: a program that is not there is told when it
// is needed.
func New(config Config) (*Plugins, error) {
	var errs []error
	if !filepath.IsAbs(config.Dir) {
		errs = append(errs, fmt.Errorf("the Dir must be an absolute path: %q", config.Dir))
	}
	if err := check(config.Providers, field.NewPath("Providers")).ToAggregate(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("credential config: %w", err)
	}
	p := &Plugins{dir: config.Dir, clock: config.Clock}
	if p.clock == nil {
		p.clock = clock.RealClock{}
	}
	for _, provider := range config.Providers {
		p.plugins = append(p.plugins, &plugin{Provider: provider, running: make(chan struct{}, 1), cache: map[string]answer{}})
	}
	return p, nil
}

// Credentials asks every plug-in that is for the image, or remembers what it has
// answered. Errors name the plug-in; they come joined beside what the others gave.
func (p *Plugins) Credentials(ctx context.Context, image string) ([]runtimeiface.Auth, error) {
	host, repo := dockerconfig.Split(image)
	fits := func(pattern string) bool { return dockerconfig.Match(pattern, host, repo) }
	var auths []runtimeiface.Auth
	var errs []error
	for _, one := range p.plugins {
		if !slices.ContainsFunc(one.MatchImages, fits) {
			continue
		}
		got, err := p.ask(ctx, one, host, repo)
		if err != nil {
			errs = append(errs, fmt.Errorf("credential provider %s: %w", one.Name, err))
			continue
		}
		for _, key := range slices.SortedFunc(maps.Keys(got), func(a, b string) int { return cmp.Compare(b, a) }) {
			if fits(key) {
				auths = append(auths, got[key])
			}
		}
	}
	return auths, errors.Join(errs...)
}

// ask gives an answer that is good for the image, a kept one if there is one.
func (p *Plugins) ask(ctx context.Context, one *plugin, host, repo string) (map[string]runtimeiface.Auth, error) {
	select {
	case one.running <- struct{}{}:
		defer func() { <-one.running }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	image := host + "/" + repo
	now := p.clock.Now()
	one.mu.Lock()
	maps.DeleteFunc(one.cache, func(_ string, a answer) bool { return !now.Before(a.until) })
	for _, key := range []string{image, host, ""} {
		if kept, ok := one.cache[key]; ok {
			one.mu.Unlock()
			return kept.auths, nil
		}
	}
	one.mu.Unlock()
	r, err := p.run(ctx, one, image)
	if err != nil {
		return nil, err
	}
	auths := map[string]runtimeiface.Auth{}
	for key, a := range r.Auth {
		auths[key] = runtimeiface.Auth{Username: a.Username, Password: a.Password}
	}
	keep := one.CacheDuration
	if r.CacheDuration != nil {
		keep = r.CacheDuration.Duration
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if keep > 0 && len(one.cache) < maxKept {
		one.cache[map[string]string{keyImage: image, keyRegistry: host, keyGlobal: ""}[r.CacheKeyType]] = answer{auths, now.Add(keep)}
	}
	return auths, nil
}

// run runs the program once. What it says on standard error is in the error.
func (p *Plugins) run(ctx context.Context, one *plugin, image string) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]string{"apiVersion": requestVersion, "kind": "CredentialProviderRequest", "image": image})
	if err != nil {
		return nil, err
	}
	out, complaint := &limited{max: maxAnswer}, &limited{max: 1 << 10}
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, one.Name), one.Args...)
	cmd.Env = append(os.Environ(), one.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), out, complaint
	cmd.WaitDelay = time.Second // a child of it may hold the pipes
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.data))
	}
	if out.over {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	var r response
	if err := json.Unmarshal(out.data, &r); err != nil {
		return nil, errors.New("the answer is no CredentialProviderResponse in JSON") // quoting it would tell secrets
	}
	return &r, r.check()
}

// limited keeps the first max bytes and takes the rest silently.
type limited struct {
	data []byte
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := min(len(p), l.max-len(l.data))
	l.data = append(l.data, p[:room]...)
	l.over = l.over || room < len(p)
	return len(p), nil
}
