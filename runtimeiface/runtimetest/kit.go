package runtimetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// glance is between two looks.
const glance = 10 * time.Millisecond

// patience is how long a case waits for what should come soon. It is an end for
// what hangs, no measure of speed.
var patience = 20 * time.Second * timeFactor(os.Getenv("NODEKIT_TIME_FACTOR"))

// timeFactor is a whole number of 1 to 100, 1 if it is none.
func timeFactor(text string) time.Duration {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 100 {
		return 1
	}
	return time.Duration(n)
}

// failure carries what a case saw up to its Run.
type failure struct{ err error }

// kit is what a case works with: a runtime, and short words for using it. Its
// methods end the case when a call fails that is not the one under test. It
// belongs to one goroutine.
type kit struct {
	ctx       context.Context
	s         Subject
	rt        runtimeiface.Runtime
	sandboxes []string
	cleanUps  []func()
	names     int
}

// newCase wraps the body of a case: failures become its error, and the pods
// that it made are removed.
func newCase(name, promise string, body func(*kit), needs ...Need) Case {
	return Case{Name: name, Promise: promise, Needs: needs, Run: func(ctx context.Context, s Subject) (err error) {
		k := &kit{ctx: ctx, s: s, rt: s.Runtime}
		defer func() {
			err = errors.Join(err, k.cleanUp())
		}()
		return k.body(body)
	}}
}

func (k *kit) body(body func(*kit)) (err error) {
	defer func() {
		switch got := recover().(type) {
		case nil:
		case failure:
			err = got.err
		default:
			panic(got)
		}
	}()
	body(k)
	return nil
}

func (k *kit) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), patience)
	defer cancel()
	for _, f := range slices.Backward(k.cleanUps) {
		f()
	}
	var errs []error
	for _, id := range k.sandboxes {
		if err := k.rt.RemoveSandbox(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("clean up: remove sandbox %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// later has f called before the case ends.
func (k *kit) later(f func()) { k.cleanUps = append(k.cleanUps, f) }

// pipe is one that ends with the case, and with ctx: nobody hangs on it for ever.
func (k *kit) pipe() (*io.PipeReader, *io.PipeWriter) {
	read, write := io.Pipe()
	stop := context.AfterFunc(k.ctx, func() { _ = read.CloseWithError(k.ctx.Err()); _ = write.Close() })
	k.later(func() { stop(); _ = write.Close() })
	return read, write
}

func (k *kit) fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// ok wants no error.
func (k *kit) ok(err error, act string, args ...any) {
	if err != nil {
		k.fail("%s: %w", fmt.Sprintf(act, args...), err)
	}
}

// is wants this error.
func (k *kit) is(err, want error, act string, args ...any) {
	if !errors.Is(err, want) {
		k.fail("%s: got error %q, want %q", fmt.Sprintf(act, args...), fmt.Sprint(err), want)
	}
}

// that wants a condition.
func (k *kit) that(ok bool, format string, args ...any) {
	if !ok {
		k.fail(format, args...)
	}
}

// same wants equal values.
func (k *kit) same(got, want any, what string, args ...any) {
	if !reflect.DeepEqual(got, want) {
		k.fail("%s: got %#v, want %#v", fmt.Sprintf(what, args...), got, want)
	}
}

// eventually looks again until check gives nil.
func (k *kit) eventually(what string, check func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.fail("%s: not within %v: %w", what, patience, err)
		}
		k.pause(glance)
	}
}

func (k *kit) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-k.ctx.Done():
		k.fail("%w", k.ctx.Err())
	}
}

// pod makes a sandbox.
func (k *kit) pod(change ...func(*runtimeiface.SandboxSpec)) string {
	id, _ := k.podSpec(change...)
	return id
}

func (k *kit) podSpec(change ...func(*runtimeiface.SandboxSpec)) (string, runtimeiface.SandboxSpec) {
	spec := k.spec()
	for _, c := range change {
		c(&spec)
	}
	return k.runPod(spec), spec
}

func (k *kit) runPod(spec runtimeiface.SandboxSpec) string {
	id, err := k.rt.RunSandbox(k.ctx, spec)
	k.ok(err, "run sandbox")
	k.that(id != "", "run sandbox: the ID is empty")
	k.removeLater(id)
	return id
}

func (k *kit) removeLater(id string) {
	if !slices.Contains(k.sandboxes, id) {
		k.sandboxes = append(k.sandboxes, id)
	}
}

// spec is that of a new pod.
func (k *kit) spec() runtimeiface.SandboxSpec {
	uid := newUID()
	return runtimeiface.SandboxSpec{
		Name: "pod-" + uid[:8], Namespace: "runtimetest", UID: uid, LogDirectory: filepath.Join(k.s.LogRoot, uid),
	}
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// image gives the ID of an image of the subject, pulled if need be.
func (k *kit) image(ref string) string {
	if img, err := k.rt.ImageStatus(k.ctx, ref); err == nil {
		return img.ID
	}
	img, err := k.rt.PullImage(k.ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	k.ok(err, "pull image %s", ref)
	return img.ID
}

// container is a spec of the helper program with these steps, and a log.
func (k *kit) container(steps ...string) runtimeiface.ContainerSpec {
	k.names++
	name := fmt.Sprintf("c%d", k.names)
	return runtimeiface.ContainerSpec{Name: name, Image: k.image(k.s.Images.Prog), Args: steps, LogPath: name + "/0.log"}
}

func (k *kit) create(sandbox string, spec runtimeiface.ContainerSpec) string {
	id, err := k.rt.CreateContainer(k.ctx, sandbox, spec)
	k.ok(err, "create container %s %q", spec.Name, spec.Args)
	k.that(id != "", "create container %s: the ID is empty", spec.Name)
	return id
}

// start creates and starts a container.
func (k *kit) start(sandbox string, spec runtimeiface.ContainerSpec) string {
	id := k.create(sandbox, spec)
	k.ok(k.rt.StartContainer(k.ctx, id), "start container %s %q", spec.Name, spec.Args)
	return id
}

// prog starts the helper program with these steps.
func (k *kit) prog(sandbox string, steps ...string) string {
	return k.start(sandbox, k.container(steps...))
}

func (k *kit) status(id string) runtimeiface.Container {
	c, err := k.rt.ContainerStatus(k.ctx, id)
	k.ok(err, "status of container %s", id)
	return c
}

func (k *kit) sandbox(id string) runtimeiface.Sandbox {
	s, err := k.rt.SandboxStatus(k.ctx, id)
	k.ok(err, "status of sandbox %s", id)
	return s
}

// stop stops a container that has no reason to take much longer than grace.
func (k *kit) stop(id string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(k.ctx, max(grace, 0)+patience)
	defer cancel()
	k.ok(k.rt.StopContainer(ctx, id, grace), "stop container %s", id)
}

// exited waits for a container's end.
func (k *kit) exited(id string) runtimeiface.Container {
	var c runtimeiface.Container
	k.eventually("exit of container "+id, func() error {
		if c = k.status(id); c.State != runtimeiface.ContainerExited {
			return fmt.Errorf("state is %s", c.State)
		}
		return nil
	})
	return c
}

// ends wants a container to end so.
func (k *kit) ends(id string, code int32, reason string) runtimeiface.Container {
	c := k.exited(id)
	if c.ExitCode != code || c.Reason != reason {
		k.fail("container ended with %d %s %q, want %d %s; its log: %q", c.ExitCode, c.Reason, c.Message, code, reason, k.logText(c.LogPath))
	}
	return c
}

// output runs the helper program to its end, which must be 0, and gives what
// it printed.
func (k *kit) output(sandbox string, steps ...string) string {
	return k.outputOf(sandbox, k.container(steps...))
}

const endMark = "--end--"

func (k *kit) outputOf(sandbox string, spec runtimeiface.ContainerSpec) string {
	spec.Args = append(slices.Clone(spec.Args), ";", "print", endMark)
	c := k.ends(k.start(sandbox, spec), 0, runtimeiface.ReasonCompleted)
	return k.untilEnd(c.LogPath)
}

// untilEnd reads a log until the mark is there, and gives what is before.
func (k *kit) untilEnd(path string) string {
	var text string
	k.eventually("log "+path+" to be whole", func() error {
		text = k.logText(path)
		if len(text) < len(endMark)+1 || text[len(text)-len(endMark)-1:] != endMark+"\n" {
			return fmt.Errorf("it is %.200q", text)
		}
		return nil
	})
	return text[:len(text)-len(endMark)-1]
}

// exec runs the helper program beside a container's own, to its end.
func (k *kit) exec(id string, steps ...string) (code int, stdout, stderr string) {
	var out, errs syncBuffer
	code, err := k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{
		Command: append([]string{"/prog"}, steps...), Stdout: &out, Stderr: &errs,
	})
	k.ok(err, "exec %q", steps)
	return code, out.String(), errs.String()
}
