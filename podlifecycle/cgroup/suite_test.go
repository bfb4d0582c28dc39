package cgroup_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/cgroup"
)

func TestCgroup(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "podlifecycle/cgroup")
}

func TestPathsStayInside(t *testing.T) {
	g := NewWithT(t)
	m := cgroup.New()
	for _, path := range []string{"", "/", "a", "/a/", "/a/../..", "/..", "//a", "/a\x00b"} {
		g.Expect(m.Ensure(t.Context(), path, nil)).To(MatchError(cgroup.ErrInvalid), "%q", path)
		g.Expect(m.Remove(t.Context(), path)).To(MatchError(cgroup.ErrInvalid), "%q", path)
	}
}
