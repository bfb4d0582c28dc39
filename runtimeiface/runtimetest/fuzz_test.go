package runtimetest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// A reference is refused as such, or is found under the name that it was given.
func FuzzReference(f *testing.F) {
	for _, seed := range []string{
		"app", "app:1", "a/b", "localhost/a", "registry.test:5000/a/b:1", "[::1]:5000/a", "UPPER", "a@sha256:12", "a:1:2", "", "a//b", "a b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: ref, Present: true}}})
		if err != nil {
			if !errors.Is(err, runtimeiface.ErrInvalidImageName) {
				t.Fatalf("%q: %v", ref, err)
			}
			return
		}
		img, err := fake.ImageStatus(t.Context(), ref)
		if err != nil {
			t.Fatalf("%q is there and not found: %v", ref, err)
		}
		full := img.Tags[0]
		if again, err := fake.ImageStatus(t.Context(), full); err != nil || again.ID != img.ID {
			t.Fatalf("%q in full is %q, which gives %v, %v", ref, full, again, err)
		}
		if strings.ContainsAny(full, " \n") {
			t.Fatalf("%q in full is %q", ref, full)
		}
	})
}
