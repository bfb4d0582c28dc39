package runtimeiface_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/nodekit/nodekit/runtimeiface"
)

// execs is a runtime that does nothing but run one thing.
type execs func(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error)

func (e execs) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	return e(ctx, id, spec)
}

func (e execs) Attach(context.Context, string, runtimeiface.AttachSpec) error {
	return errors.ErrUnsupported
}

func (e execs) PortForward(context.Context, string, uint16, io.ReadWriteCloser) error {
	return errors.ErrUnsupported
}

func TestExecSyncKeepsWhatWasSaid(t *testing.T) {
	boom := errors.New("boom")
	got, err := runtimeiface.ExecSync(t.Context(), execs(func(_ context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
		if id != "c1" || !reflect.DeepEqual(spec.Command, []string{"a", "b"}) || spec.Stdin != nil || spec.TTY {
			t.Errorf("asked for %s %+v", id, spec)
		}
		_, _ = spec.Stdout.Write([]byte("out"))
		_, _ = spec.Stderr.Write([]byte("err"))
		return 3, boom
	}), "c1", []string{"a", "b"})
	want := runtimeiface.ExecResult{Stdout: []byte("out"), Stderr: []byte("err"), ExitCode: 3}
	if !reflect.DeepEqual(got, want) || !errors.Is(err, boom) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestExecSyncKeepsTheFirstBytes(t *testing.T) {
	const limit = runtimeiface.MaxExecOutput
	for _, c := range []struct {
		writes []int
		kept   int
		cut    bool
	}{
		{[]int{limit}, limit, false},
		{[]int{limit + 1}, limit, true},
		{[]int{limit - 1, 1}, limit, false},
		{[]int{limit - 1, 2, 5}, limit, true},
		{[]int{limit, 0}, limit, false},
		{nil, 0, false},
	} {
		got, err := runtimeiface.ExecSync(t.Context(), execs(func(_ context.Context, _ string, spec runtimeiface.ExecSpec) (int, error) {
			for i, n := range c.writes {
				// The writer is told that all was taken, or the command would end.
				if written, err := spec.Stderr.Write(bytes.Repeat([]byte{byte('a' + i)}, n)); written != n || err != nil {
					t.Errorf("%v: write %d took %d, %v", c.writes, i, written, err)
				}
			}
			return 0, nil
		}), "c1", nil)
		if err != nil || len(got.Stderr) != c.kept || got.Truncated != c.cut || len(got.Stdout) != 0 {
			t.Errorf("%v: kept %d, truncated %v, %v", c.writes, len(got.Stderr), got.Truncated, err)
		}
		if len(c.writes) > 1 && c.writes[0] < limit && (got.Stderr[0] != 'a' || got.Stderr[limit-1] != 'b') {
			t.Errorf("%v: kept are not the first bytes", c.writes)
		}
	}
}

// A backend may be at it still when a cancelled call returns.
func TestExecSyncIsNotChangedByLateWriters(t *testing.T) {
	var late io.Writer
	got, _ := runtimeiface.ExecSync(t.Context(), execs(func(_ context.Context, _ string, spec runtimeiface.ExecSpec) (int, error) {
		late = spec.Stdout
		_, _ = late.Write(append(make([]byte, 0, 64), "in time"...))
		return -1, context.Canceled
	}), "c1", nil)
	kept := got.Stdout
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n, err := late.Write([]byte("too late")); n != 8 || err != nil {
			t.Errorf("late write: %d, %v", n, err)
		}
	}()
	<-done
	if string(got.Stdout) != "in time" || string(kept[:cap(kept)][:7]) != "in time" || got.ExitCode != -1 {
		t.Errorf("got %q, %d", got.Stdout, got.ExitCode)
	}
}

func TestImageSubpath(t *testing.T) {
	for _, c := range []struct {
		options, others []string
		path            string
	}{
		{nil, nil, ""},
		{[]string{"ro"}, []string{"ro"}, ""},
		{[]string{"ro", "subpath=a/b", "nodev"}, []string{"ro", "nodev"}, "a/b"},
		{[]string{"subpath=a", "subpath=b"}, nil, "b"},
		{[]string{"subpath=a", "subpath="}, nil, ""},
		{[]string{"xsubpath=a", "subpath"}, []string{"xsubpath=a", "subpath"}, ""},
	} {
		path, others := runtimeiface.ImageSubpath(c.options)
		if path != c.path || !reflect.DeepEqual(others, c.others) {
			t.Errorf("%q: got %q, %q", c.options, path, others)
		}
	}
}
