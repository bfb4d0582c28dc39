package oci

import (
	"errors"
	"testing"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// TestAnswersOfTheShim holds what callers may want to know to the errors that the
// interface names: of a container that goes while it is stopped, for one.
func TestAnswersOfTheShim(t *testing.T) {
	for cause, want := range map[string]error{
		shim.Exited:  runtimeiface.ErrNotRunning,
		shim.Unknown: runtimeiface.ErrNotFound,
		shim.Crowded: runtimeiface.ErrUnavailable,
		"no room":    shimError("no room"),
	} {
		if err := answerError(shim.Message{Op: shim.OpFail, Fields: []string{cause}}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", cause, err, want)
		}
	}
	if err := answerError(shim.Message{Op: shim.OpOK}); err != nil {
		t.Error(err)
	}
}
