package iptables_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// accepts asks the tool what it thinks of a text.
func accepts(t *testing.T, tool, text string) {
	t.Helper()
	t.Run("accepted", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Root, kerneltest.Iptables)
		err := kerneltest.NewNetNS(t).Do(func() error {
			cmd := exec.Command(tool, "--noflush", "-w")
			cmd.Stdin = strings.NewReader(text)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %s", tool, out)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
