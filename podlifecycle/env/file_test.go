package env_test

import (
	"errors"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/env"
)

func fileKey(name, key string, optional bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{
		VolumeName: "shared", Path: "a/vars", Key: key, Optional: &optional}}}
}

// resolveFile gives variable A from a file with that text.
func resolveFile(text, key string, optional bool) ([]string, error) {
	in := input(corev1.Container{Env: []corev1.EnvVar{fileKey("A", key, optional)}})
	in.Services, in.Pod.Spec.EnableServiceLinks = nil, new(false)
	in.File = func(volume, path string) ([]byte, error) {
		if volume != "shared" || path != "a/vars" {
			return nil, errors.New("asked for " + volume + " " + path)
		}
		return []byte(text), nil
	}
	return env.Resolve(in)
}

func TestVariablesFromFiles(t *testing.T) {
	for name, test := range map[string]struct {
		text, key string
		optional  bool
		want      string // the variable, or how the error ends
		err       error
	}{
		"plain":                   {"KEY='value'\n", "KEY", false, "A=value", nil},
		"comments and blanks":     {"\n # x=y\n\t KEY='v # w' # more\n", "KEY", false, "A=v # w", nil},
		"literal":                 {`KEY='$(HOME) \n "x"'`, "KEY", false, `A=$(HOME) \n "x"`, nil},
		"lines":                   {"OTHER='1'\nKEY='one\n\ntwo'\n", "KEY", false, "A=one\n\ntwo", nil},
		"lines of DOS":            {"KEY='one\r\ntwo'\r\n", "KEY", false, "A=one\ntwo", nil},
		"first one counts":        {"KEY='1'\nKEY='2'\nnonsense", "KEY", false, "A=1", nil},
		"not there":               {"OTHER='1'\n", "KEY", false, `key "KEY" of file a/vars of volume shared: not found`, env.ErrMissing},
		"not there, optional":     {"OTHER='1'\n", "KEY", true, "", nil},
		"empty":                   {"KEY=''\n", "KEY", true, "", nil},
		"blank before the quote":  {"KEY= 'x'\n", "KEY", true, "", nil},
		"blank, of another":       {"OTHER= 'x'\nKEY='1'\n", "KEY", false, "A=1", nil},
		"blank before the equals": {"KEY ='x'\n", "KEY", false, "line 1 has no name right before its '=': is no file of variables", env.ErrFile},
		"no name":                 {"='x'\n", "KEY", false, "line 1 has no name right before its '=': is no file of variables", env.ErrFile},
		"no equals":               {"\nKEY\n", "KEY", true, "line 2 has no '=': is no file of variables", env.ErrFile},
		"no quotes":               {"KEY=x\n", "KEY", false, "line 1 has a value without single quotes: is no file of variables", env.ErrFile},
		"nothing":                 {"KEY=\n", "KEY", false, "line 1 has a value without single quotes: is no file of variables", env.ErrFile},
		"open end":                {"A='1'\nKEY='x\n", "KEY", false, "line 2 begins a value that does not end: is no file of variables", env.ErrFile},
		"more behind":             {"KEY='x\ny'z\n", "KEY", false, "line 2 has more behind its value: is no file of variables", env.ErrFile},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := resolveFile(test.text, test.key, test.optional)
			switch {
			case test.err != nil:
				g.Expect(err).To(MatchError(test.err))
				g.Expect(err).To(MatchError(ContainSubstring("env[0].valueFrom.fileKeyRef")))
				g.Expect(err.Error()).To(HaveSuffix(test.want))
			case test.want == "":
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(got).To(BeEmpty())
			default:
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(got).To(Equal([]string{test.want}))
			}
		})
	}
}

func FuzzVariablesFromFiles(f *testing.F) {
	for _, seed := range []string{"KEY='v'", "A='1'\nKEY='x\ny' # z", "KEY= 'x'", "#\r\n=", "KEY='"} {
		f.Add(seed, "w")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		if got, err := resolveFile(text, "KEY", true); err == nil && len(got) > 1 {
			t.Fatalf("%q gave %q", text, got)
		}
		if value == "" || strings.ContainsAny(value, "'\r") {
			return
		}
		// What is well written is found, whatever it is.
		if got, err := resolveFile("KEY='"+value+"'\n"+text, "KEY", false); err != nil || len(got) != 1 || got[0] != "A="+value {
			t.Fatalf("%q gave %q, %v", value, got, err)
		}
	})
}
