package oci

import (
	"strings"
	"testing"
)

func TestSlices(t *testing.T) {
	for cgroup, want := range map[string]string{
		"/nodekit.slice": "",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice": "",
		"/kubepods/burstable/pod1":  "is no slice",
		"/nodekit-1.scope":          "is no slice",
		"/kubepods-burstable.slice": "which is /kubepods.slice/kubepods-burstable.slice",
		"/b.slice/a.slice":          "which is /a.slice",
		"/-.slice":                  "no unit -.slice",
		"/.slice":                   "no unit .slice",
		"/a.slice/a-.slice":         "no unit a-.slice",
		"/a.slice/a--b.slice":       "no unit a--b.slice",
		"/a@b.slice":                "no unit a@b.slice",
		"/a b.slice":                "no unit a b.slice",
		"/" + strings.Repeat("a", 250) + ".slice": "no unit aaa",
	} {
		err := checkSlice(cgroup)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", cgroup, err, want)
		}
	}
	pod := podSlice("/a.slice/a-b.slice", "pod1")
	if pod != "/a.slice/a-b.slice/a-b-pod1.slice" || checkSlice(pod) != nil {
		t.Errorf("slice of the pod is %s: %v", pod, checkSlice(pod))
	}
	if got := scopeOf(pod, "7f"); got != pod+"/nodekit-7f.scope" {
		t.Errorf("scope is %s", got)
	}
	if got := scopePath(pod, "7f"); got != "a-b-pod1.slice:nodekit:7f" {
		t.Errorf("path for the runtime is %s", got)
	}
}
