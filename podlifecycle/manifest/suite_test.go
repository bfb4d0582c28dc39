package manifest_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// onePod decodes and defaults a pod; it must be without problems.
func onePod(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	objects, problems := manifest.Decode("f.yaml", strings.NewReader(text))
	NewWithT(t).Expect(problems).To(BeEmpty())
	NewWithT(t).Expect(objects.Pods).To(HaveLen(1))
	manifest.Default(objects.Pods[0])
	return objects.Pods[0]
}

// spec makes a pod of lines of its spec.
func spec(t *testing.T, lines string) *corev1.Pod {
	t.Helper()
	return onePod(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  "+
		strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n  ")+"\n")
}
