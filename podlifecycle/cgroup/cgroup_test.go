package cgroup_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nodekit/nodekit/podlifecycle/cgroup"
)

func TestPathsThatAreNobodysOwnAreRefused(t *testing.T) {
	for _, path := range []string{"", "/", "relative", "/a/../b", "/a/", "//a"} {
		if err := cgroup.New().Ensure(t.Context(), path, nil); err == nil {
			t.Errorf("Ensure(%q) went well", path)
		}
		if err := cgroup.New().Remove(t.Context(), path); err == nil {
			t.Errorf("Remove(%q) went well", path)
		}
		if _, err := cgroup.New().List(path); err == nil {
			t.Errorf("List(%q) went well", path)
		}
	}
}

func ExampleManager() {
	err := cgroup.New().Remove(context.Background(), "/")
	fmt.Println(err)
	// Output: remove cgroup: "/" is not an absolute, clean path below the root
}
