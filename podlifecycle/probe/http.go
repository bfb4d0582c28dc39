package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const maxRedirects = 10

// httpGet passes with 200 to 399. A redirect is followed on the same host only;
// one to another host is what was seen, and passes.
// Source: Kubernetes v1.37.0 pkg/probe/http.
func (p *Prober) httpGet(ctx context.Context, target Target, action *corev1.HTTPGetAction) (Result, string, error) {
	address, err := address(target, action.Host, action.Port)
	if err != nil {
		return Unknown, "", err
	}
	request, err := newRequest(ctx, action, address, p.config.UserAgent)
	if err != nil {
		return Unknown, "", err
	}
	client := http.Client{Transport: p.http, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		return nil
	}}
	response, err := client.Do(request)
	if err != nil {
		return Failure, err.Error(), nil
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	if err != nil {
		return Failure, fmt.Sprintf("HTTP %d, then: %v", response.StatusCode, err), nil
	}
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d: %s", response.StatusCode, body), nil
	}
	return Success, string(body), nil
}

func newRequest(ctx context.Context, action *corev1.HTTPGetAction, address, userAgent string) (*http.Request, error) {
	target, err := url.Parse(action.Path)
	if err != nil || target.Host != "" || target.Opaque != "" {
		// Such as //x or a:b, which are paths here.
		target = &url.URL{Path: action.Path}
	}
	target.Scheme = strings.ToLower(string(action.Scheme))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	target.User, target.Host = nil, address
	if !strings.HasPrefix(target.Path, "/") {
		target.Path, target.RawPath = "/"+target.Path, ""
	}
	// Not through text: a host such as a/b or a@b must not become another.
	request := (&http.Request{Method: http.MethodGet, URL: target, Host: address, Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	for _, header := range action.HTTPHeaders {
		if strings.ContainsAny(header.Name+header.Value, "\r\n\x00") {
			return nil, errors.New("HTTP request: line break in a header")
		}
		request.Header.Add(header.Name, header.Value)
		if http.CanonicalHeaderKey(header.Name) == "Host" {
			request.Host = header.Value
		}
	}
	// An empty value given by hand means: send none.
	for name, value := range map[string]string{"User-Agent": userAgent, "Accept": "*/*"} {
		switch given, ok := request.Header[name]; {
		case !ok:
			request.Header.Set(name, value)
		case given[0] == "" && name == "Accept":
			request.Header.Del(name)
		}
	}
	return request, nil
}
