package credential

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// Versions that are spoken.
const (
	configVersion  = "kubelet.config.k8s.io/v1"
	requestVersion = "credentialprovider.kubelet.k8s.io/v1"
)

// Provider is one plug-in.
type Provider struct {
	// Name of the program in Config.Dir; required.
	Name string
	// MatchImages are the images that it is asked for, such as *.example:5000/team,
	// see dockerconfig.Match; required.
	MatchImages []string
	// CacheDuration is how long an answer is kept that does not say so itself; 0
	// keeps none.
	CacheDuration time.Duration
	// Args of the program, and what is added to the agent's environment, as
	// NAME=value.
	Args, Env []string
}

// file is a CredentialProviderConfig.
type file struct {
	metav1.TypeMeta `json:",inline"`
	Providers       []struct {
		Name                 string           `json:"name"`
		MatchImages          []string         `json:"matchImages"`
		DefaultCacheDuration *metav1.Duration `json:"defaultCacheDuration"`
		APIVersion           string           `json:"apiVersion"`
		Args                 []string         `json:"args"`
		Env                  []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"env"`
		TokenAttributes map[string]any `json:"tokenAttributes"`
	} `json:"providers"`
}

// Providers reads a CredentialProviderConfig in YAML or JSON. All that is wrong is
// told together, by path; unknown fields are refused.
func Providers(data []byte) ([]Provider, error) {
	var f file
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	var errs field.ErrorList
	if f.APIVersion != configVersion {
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), f.APIVersion, []string{configVersion}))
	}
	if f.Kind != "CredentialProviderConfig" {
		errs = append(errs, field.NotSupported(field.NewPath("kind"), f.Kind, []string{"CredentialProviderConfig"}))
	}
	var list []Provider
	for i, p := range f.Providers {
		at := field.NewPath("providers").Index(i)
		if p.APIVersion != requestVersion {
			errs = append(errs, field.NotSupported(at.Child("apiVersion"), p.APIVersion, []string{requestVersion}))
		}
		if p.TokenAttributes != nil {
			errs = append(errs, field.Forbidden(at.Child("tokenAttributes"), "there is no API server to make tokens"))
		}
		one := Provider{Name: p.Name, MatchImages: p.MatchImages, Args: p.Args}
		if p.DefaultCacheDuration == nil {
			errs = append(errs, field.Required(at.Child("defaultCacheDuration"), ""))
		} else {
			one.CacheDuration = p.DefaultCacheDuration.Duration
		}
		for j, e := range p.Env {
			if e.Name == "" {
				errs = append(errs, field.Required(at.Child("env").Index(j).Child("name"), ""))
			}
			one.Env = append(one.Env, e.Name+"="+e.Value)
		}
		list = append(list, one)
	}
	errs = append(errs, check(list, field.NewPath("providers"))...)
	if err := errs.ToAggregate(); err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	return list, nil
}

// check tells what is wrong with providers, wherever they are from.
func check(list []Provider, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, one := range list {
		at := p.Index(i)
		switch {
		case one.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case one.Name == "." || one.Name == ".." || filepath.Base(one.Name) != one.Name:
			errs = append(errs, field.Invalid(at.Child("name"), one.Name, "must be the name of a program, without a path"))
		case seen[one.Name]:
			errs = append(errs, field.Duplicate(at.Child("name"), one.Name))
		}
		seen[one.Name] = true
		if len(one.MatchImages) == 0 {
			errs = append(errs, field.Required(at.Child("matchImages"), ""))
		}
		for j, pattern := range one.MatchImages {
			if pattern == "" {
				errs = append(errs, field.Required(at.Child("matchImages").Index(j), ""))
			}
		}
		if one.CacheDuration < 0 {
			errs = append(errs, field.Invalid(at.Child("defaultCacheDuration"), one.CacheDuration.String(), "must not be negative"))
		}
	}
	return errs
}

// response is a CredentialProviderResponse.
type response struct {
	metav1.TypeMeta `json:",inline"`
	CacheKeyType    string           `json:"cacheKeyType"`
	CacheDuration   *metav1.Duration `json:"cacheDuration"`
	Auth            map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"auth"`
}

// Of what an answer holds good.
const (
	keyImage    = "Image"
	keyRegistry = "Registry"
	keyGlobal   = "Global"
)

func (r *response) check() error {
	switch {
	case r.APIVersion != requestVersion || r.Kind != "CredentialProviderResponse":
		return fmt.Errorf("the answer is a %.80q of %.80q", r.Kind, r.APIVersion)
	case !slices.Contains([]string{keyImage, keyRegistry, keyGlobal}, r.CacheKeyType):
		return fmt.Errorf("the answer's cacheKeyType is %.80q", r.CacheKeyType)
	case r.CacheDuration != nil && r.CacheDuration.Duration < 0:
		return errors.New("the answer's cacheDuration is negative")
	case slices.Contains(slices.Collect(maps.Keys(r.Auth)), ""):
		return errors.New("the answer has a credential for no image")
	}
	return nil
}
