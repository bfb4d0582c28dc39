package logind_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/shutdown/logind"
)

func TestConfig(t *testing.T) {
	g := NewWithT(t)
	_, err := logind.New(logind.Config{ConfDir: "logind.conf.d"})
	g.Expect(err).To(MatchError(And(ContainSubstring("Delay"), ContainSubstring("Shutdown"), ContainSubstring("ConfDir"))))
}

func ExampleNew() {
	watch, err := logind.New(logind.Config{
		Delay:    30 * time.Second,
		Shutdown: func(context.Context) error { return nil }, // such as Manager.Shutdown
	})
	fmt.Println(watch.ShuttingDown(), err)
	// Output: false <nil>
}
