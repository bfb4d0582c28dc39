package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

const (
	defaultPoll = 20 * time.Second
	// firstRetry doubles with each failure up to lastRetry.
	firstRetry, lastRetry = time.Second, 5 * time.Minute
	requestTime           = 30 * time.Second
	maxRedirects          = 3
)

// HTTPConfig of an HTTP source.
type HTTPConfig struct {
	// URL of a document with manifests, http or https, without user information;
	// required.
	URL string
	// Header is sent with each request, such as an Authorization; it follows no
	// redirect to another host. nil sends none.
	Header http.Header
	// NodeName as in Config.
	NodeName string
	// VolumePlugins as in Config.
	VolumePlugins []string
	// Poll is how often the server is asked; 0 means 20 s.
	Poll time.Duration
	// Transport for TLS and proxies; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Logger; the zero value discards.
	Logger logr.Logger
}

// HTTP reads manifests from a URL, again each Poll. An answer that is no success
// changes nothing but the set's Problems; it is asked again after a second, then
// after twice as long each time, up to five minutes or what Retry-After says.
// Run may be called once.
type HTTP struct {
	config HTTPConfig
	client *http.Client
	place  place
	// etag and modified name the document that place is of.
	etag, modified string
	failures       int
}

var _ Source = (*HTTP)(nil)

// NewHTTP checks config; it asks nobody.
func NewHTTP(config HTTPConfig) (*HTTP, error) {
	var errs []error
	at, err := url.Parse(config.URL)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("URL: %w", errors.Unwrap(err)))
	case at.Scheme != "http" && at.Scheme != "https", at.Host == "":
		errs = append(errs, errors.New("an http or https URL is required"))
	case at.User != nil:
		errs = append(errs, errors.New("URL holds a user: credentials belong in Header"))
	}
	errs = append(errs, checkNode(config.NodeName)...)
	if config.Poll < 0 {
		errs = append(errs, errors.New("negative Poll"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("source config: %w", errors.Join(errs...))
	}
	if config.Poll == 0 {
		config.Poll = defaultPoll
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	config.Header = config.Header.Clone()
	return &HTTP{
		config: config,
		place:  place{origin: origin{"http", config.NodeName, config.VolumePlugins}, name: config.URL},
		client: &http.Client{Transport: config.Transport, Timeout: requestTime, CheckRedirect: sameHost},
	}, nil
}

// sameHost keeps credentials, and what decides over the node, where they were
// configured.
func sameHost(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	if next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		return fmt.Errorf("redirect to %s://%s is not followed", next.URL.Scheme, next.URL.Host)
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

// Run calls update with the whole set after the first answer and whenever the
// document or what is wrong with it changed.
func (h *HTTP) Run(ctx context.Context, update func(Set)) error {
	told := ""
	for first := true; ; first = false {
		changed, after, err := h.ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			h.place.fail(err)
		}
		if text := errorText(err); first || changed || text != told {
			told = text
			update(h.place.set())
		}
		timer := h.config.Clock.NewTimer(h.wait(err != nil, after))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

// wait is how long to leave the server alone.
func (h *HTTP) wait(failed bool, after time.Duration) time.Duration {
	if !failed {
		h.failures = 0
		return h.config.Poll
	}
	wait := min(firstRetry<<min(h.failures, 16), lastRetry)
	h.failures++
	// A tenth at random, so that many nodes do not come together.
	wait += rand.N(wait/10 + 1)
	return max(wait, min(after, lastRetry))
}

// ask tells whether there was a new document; after is what the server wants to
// be left alone for.
func (h *HTTP) ask(ctx context.Context) (changed bool, after time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.config.URL, nil)
	if err != nil {
		return false, 0, err
	}
	for name, values := range h.config.Header {
		request.Header[name] = values
	}
	request.Header.Set("Accept", "application/yaml, application/json;q=0.9, */*;q=0.1")
	if h.etag != "" {
		request.Header.Set("If-None-Match", h.etag)
	}
	if h.modified != "" {
		request.Header.Set("If-Modified-Since", h.modified)
	}
	response, err := h.client.Do(request)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // the URL stands in the problem already
		}
		return false, 0, fmt.Errorf("get: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		// What was wrong with the document is so still, what was wrong with
		// getting it is not.
		if h.failures > 0 {
			h.place.problems = nil
			h.etag, h.modified = "", ""
			return h.ask(ctx)
		}
		return false, 0, nil
	default:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return false, time.Duration(max(seconds, 0)) * time.Second, fmt.Errorf("get: the server answers %s", response.Status)
	}
	// One byte more than Decode takes, for it to refuse.
	data, err := io.ReadAll(io.LimitReader(response.Body, manifest.MaxSize+1))
	if err != nil {
		return false, 0, fmt.Errorf("read answer: %w", err)
	}
	h.place.take(data)
	h.etag, h.modified = response.Header.Get("ETag"), response.Header.Get("Last-Modified")
	return true, 0, nil
}
