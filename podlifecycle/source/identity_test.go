package source

import (
	"strings"
	"testing"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// In the package, because only a fixed path gives a fixed UID. A pod must not be
// restarted because the agent was upgraded: see uidVersion.
func TestUIDIsPinned(t *testing.T) {
	objects, _ := manifest.Decode("web.yaml", strings.NewReader(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  securityContext: {fsGroup: 9007199254740993}
  containers:
  - name: app
    image: app:1
    resources: {limits: {cpu: 1, memory: 64Mi}}
    livenessProbe: {httpGet: {port: http}}
  volumes: [{name: a, emptyDir: {}}, {name: b, configMap: {name: c}}]
`))
	const want = "05614482-8296-8a57-9fa2-a53030824d6f"
	if got := (origin{kind: "file", node: "n1"}).uid("/manifests/web.yaml", objects.Pods[0]); got != want {
		t.Fatalf("UID is %s, was %s", got, want)
	}
}
