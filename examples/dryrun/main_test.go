package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const web = `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  initContainers: [{name: setup, image: "setup:1"}]
  containers: [{name: app, image: "app:1"}]
`

// dryrun gives what is printed, without the columns' spaces.
func dryrun(t *testing.T, manifest, state string, args ...string) (string, error) {
	t.Helper()
	if state != "" {
		path := filepath.Join(t.TempDir(), "state.yaml")
		if err := os.WriteFile(path, []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--state", path)
	}
	var out bytes.Buffer
	err := run(append(args, "-"), strings.NewReader(manifest), &out)
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n"), err
}

func TestDryrun(t *testing.T) {
	for name, c := range map[string]struct {
		state string
		args  []string
		want  string
	}{
		"a node that has nothing": {want: `
pod default/web, on a node that has nothing of it
+0s wait ContainersNotReady (rule readiness-probe) <- containers with unready status: [app]
+0s status Pending Ready=False setup=ContainerCreating/0 app=PodInitializing/0
+0s prepare volumes, directories and cgroup come first (rule prepare)
+0s pull setup imagePullPolicy is IfNotPresent (rule image) <- setup:1
+0s run-sandbox there is no sandbox (rule sandbox)
+0s wait setup the containers after this one wait until it has succeeded (rule init-order) <- not there
+0s create setup it has not run yet (rule start)
+0s status Pending Ready=False setup=Completed(0)/0 app=ContainerCreating/0
+0s pull app imagePullPolicy is IfNotPresent (rule image) <- app:1
+0s create app it has not run yet (rule start)
+0s status Running Ready=True setup=Completed(0)/0 app=Running/0
+0s end nothing will happen by itself`},
		"a container that has crashed for the second time": {
			state: "sandbox: ready\ncontainers:\n- {name: setup, state: exited, started: 1m, finished: 59s}\n" +
				"- {name: app, state: exited, attempt: 1, exitCode: 2, started: 5s, finished: 3s}\n",
			want: `
pod default/web, on a node in the state that is given
+0s wait app back-off of 10s, level 2, until +7s (rule back-off) <- attempt 1 exited with 2 (Error) after 2s
+0s wait ContainersNotReady (rule readiness-probe) <- containers with unready status: [app]
+0s status Running Ready=False setup=Completed(0)/0 app=CrashLoopBackOff/1
+7s status Running Ready=False setup=Completed(0)/0 app=Error(2)/1
+7s pull app imagePullPolicy is IfNotPresent (rule image) <- app:1
+7s create app restartPolicy is Always (rule restart-policy) <- attempt 1 exited with 2 (Error) after 2s
+7s status Running Ready=True setup=Completed(0)/0 app=Running/2
+7s end nothing will happen by itself`},
		"a program that keeps crashing": {args: []string{"--exit", "app=1", "--for", "5s"}, want: `
+0s next restart app at +10s: the back-off of 10s ends`},
		"other resources": {
			state: "sandbox: ready\ncontainers:\n- {name: setup, state: exited, started: 5m, finished: 4m}\n" +
				"- {name: app, state: running, started: 3m, resources: {limits: {memory: 64Mi}}}\n",
			want: `
+0s resize app it was granted and needs no restart (rule resize) <- memory limit from 64Mi to none`},
		"a manifest that was removed": {
			state: "sandbox: ready\ndeleted: true\ncontainers:\n- {name: app, state: running, started: 5m}\n",
			want: `
+0s kill app Deleted: no source wants the pod any more (rule ending) <- Running`},
	} {
		got, err := dryrun(t, web, c.state, c.args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains("\n"+got, c.want) {
			t.Errorf("%s:\n%s\nwant%s", name, got, c.want)
		}
	}
}

func TestDryrunTellsOfFields(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"--fields"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	var rows []struct{ Path, Honoured, Reason string }
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, row := range rows {
		found[row.Honoured] = row.Path
		if row.Path == "" || (row.Reason == "") != (row.Honoured == "yes" || row.Honoured == "elsewhere") {
			t.Errorf("row %+v", row)
		}
	}
	if len(found) != 4 || len(rows) < 200 {
		t.Errorf("%d rows, of kinds %v", len(rows), found)
	}
}

func TestDryrunSaysWhatIsWrong(t *testing.T) {
	for want, c := range map[string]struct{ manifest, state string }{
		"no container \"ap\"":        {web, "sandbox: ready\ncontainers: [{name: ap, state: running}]"},
		"cannot be without a sandbo": {web, "containers: [{name: app, state: running}]"},
		"unknown field \"sandbx\"":   {web, "sandbx: ready"},
		"is not running, exited":     {web, "sandbox: ready\ncontainers: [{name: app, state: up}]"},
		"is none of default/web":     {web, "pod: default/wep\nsandbox: ready"},
	} {
		if _, err := dryrun(t, c.manifest, c.state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	got, err := dryrun(t, strings.Replace(web, "image", "imag", 1), "")
	if err != nil || !strings.Contains(got, "refused: -: document 1: Pod default/web: spec.initContainers[0].imag") {
		t.Errorf("got %s, %v", got, err)
	}
	for _, args := range [][]string{{}, {"a", "b"}, {"--exit", "app", "-"}} {
		if err := run(args, strings.NewReader(web), new(bytes.Buffer)); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
