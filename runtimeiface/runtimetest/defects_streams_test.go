package runtimetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

var streamDefects = []defect{
	{"attach is not there", []string{"attach/output", "attach/several", "attach/stdin*", "attach/leaves", "attach/terminal", "attach/resize"}, func(b *broken) {
		b.attach = func(ctx context.Context, _ string, _ runtimeiface.AttachSpec) error { <-ctx.Done(); return ctx.Err() }
	}},
	{"attach gives one stream for both", []string{"attach/output"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			s.Stderr = s.Stdout
			return b.Fake.Attach(ctx, id, s)
		}
	}},
	{"attach returns before all is delivered", []string{"attach/large", "attach/stdin once"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			to := s.Stdout
			var all bytes.Buffer
			s.Stdout = &all
			err := b.Fake.Attach(ctx, id, s)
			_, _ = to.Write(all.Bytes()[:max(0, all.Len()-3)])
			return err
		}
	}},
	{"the end of a client's input is not told", []string{"attach/stdin*", "attach/large"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			if s.Stdin != nil {
				s.Stdin = io.MultiReader(s.Stdin, until(ctx))
			}
			return b.Fake.Attach(ctx, id, s)
		}
	}},
	{"a client that leaves takes the program along", []string{"attach/leaves", "attach/several", "attach/resize"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			err := b.Fake.Attach(ctx, id, s)
			_ = b.Fake.Exit(id, 1)
			return errors.Join(err, ctx.Err(), errors.New("gone"))
		}
	}},
	{"input is taken where there is none", []string{"attach/no stdin"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			s.Stdin = nil
			return b.Fake.Attach(ctx, id, s)
		}
	}},
	{"attach to what does not run waits or succeeds", []string{"attach/not running"}, func(b *broken) {
		b.attach = func(ctx context.Context, id string, s runtimeiface.AttachSpec) error {
			if err := b.Fake.Attach(ctx, id, s); !errors.Is(err, runtimeiface.ErrNotRunning) {
				return err
			}
			return nil
		}
	}},
	{"terminals are pipes", []string{"attach/terminal", "attach/resize", "exec/terminal", "exec/resize"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.TTY = false
			return b.Fake.CreateContainer(ctx, id, s)
		}
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			s.TTY = false
			return b.Fake.Exec(ctx, id, s)
		}
	}},
	{"exec waits for the end of its input", []string{"exec/unread stdin", "exec/stdin's end"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			if s.Stdin != nil {
				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				in := make(chan []byte, 1)
				go func() { data, _ := io.ReadAll(s.Stdin); in <- data }()
				select {
				case data := <-in:
					s.Stdin = bytes.NewReader(data)
				case <-ctx.Done():
					return -1, ctx.Err()
				}
			}
			return b.Fake.Exec(ctx, id, s)
		}
	}},
	{"exec fails when it says much", []string{"exec/output cap"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			var out bytes.Buffer
			to := s.Stdout
			s.Stdout = &out
			code, err := b.Fake.Exec(ctx, id, s)
			if out.Len() > runtimeiface.MaxExecOutput {
				return -1, errors.New("too large")
			}
			_, _ = to.Write(out.Bytes())
			return code, err
		}
	}},
	{"what was said before a time-out is lost", []string{"exec/time-out keeps output"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			var out bytes.Buffer
			to := s.Stdout
			s.Stdout = &out
			code, err := b.Fake.Exec(ctx, id, s)
			if err == nil && to != nil {
				_, _ = to.Write(out.Bytes())
			}
			return code, err
		}
	}},
	{"port-forward is not there", []string{"forward/both loopbacks", "forward/several", "forward/large", "forward/client's end", "forward/pod's end", "forward/cancelled"}, func(b *broken) {
		b.forward = func(_ context.Context, _ string, _ uint16, conn io.ReadWriteCloser) error {
			_ = conn.Close()
			return runtimeiface.ErrNotSupported
		}
	}},
	{"port-forward ends with the first end", []string{"forward/client's end"}, func(b *broken) {
		b.forward = func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			return b.Fake.PortForward(ctx, id, port, endsAtOnce{conn})
		}
	}},
	{"port-forward ends with the pod's last byte", []string{"forward/pod's end"}, func(b *broken) {
		b.forward = func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			return b.Fake.PortForward(ctx, id, port, struct{ io.ReadWriteCloser }{conn})
		}
	}},
	{"port-forward reaches any port, of any sandbox", []string{"forward/nobody listens", "forward/not running"}, func(b *broken) {
		b.forward = func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			err := b.Fake.PortForward(ctx, id, port, conn)
			if ctx.Err() == nil {
				return nil
			}
			return err
		}
	}},
	{"port-forward leaves the connection open", []string{"forward/nobody listens", "forward/not running", "forward/cancelled"}, func(b *broken) {
		b.forward = func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			s, err := b.Fake.SandboxStatus(ctx, id)
			if err != nil || s.State != runtimeiface.SandboxReady {
				return errors.Join(runtimeiface.ErrNotRunning, runtimeiface.ErrNotFound, runtimeiface.ErrUnavailable, block(ctx, conn))
			}
			err = b.Fake.PortForward(ctx, id, port, staysOpen{conn})
			return errors.Join(err, block(ctx, conn))
		}
	}},
}

// until is input that says nothing and ends with ctx.
func until(ctx context.Context) io.Reader {
	read, write := io.Pipe()
	context.AfterFunc(ctx, func() { _ = write.Close() })
	return read
}

// endsAtOnce is closed by the end of what it gives.
type endsAtOnce struct{ io.ReadWriteCloser }

func (c endsAtOnce) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

// staysOpen is never closed.
type staysOpen struct{ io.ReadWriteCloser }

func (staysOpen) Close() error { return nil }

// block hands on nothing, and lets the peer see that by a byte.
func block(_ context.Context, conn io.ReadWriteCloser) error {
	go func() { _, _ = conn.Write([]byte("open")); _ = conn.Close() }()
	return nil
}

var togetherDefects = []defect{
	{"containers that are run together are run one after another", []string{"together/one cannot be created"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			return oneByOne(ctx, b, id, list)
		}
	}},
	{"what was created is left", []string{"together/one cannot be created"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			ids, err := b.Fake.RunContainers(ctx, id, list)
			if errors.Is(err, runtimeiface.ErrInvalid) || errors.Is(err, runtimeiface.ErrNotFound) {
				_, _ = b.Fake.CreateContainer(ctx, id, list[0])
			}
			return ids, err
		}
	}},
	{"what was started before one cannot be started goes on", []string{"together/one cannot be started", "together/exited"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			return oneByOne(ctx, b, id, list)
		}
	}},
	{"what ran before is killed by what goes wrong", []string{"together/same identity"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			ids, err := b.Fake.RunContainers(ctx, id, list)
			if err != nil {
				running, _ := b.Fake.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: id})
				for _, c := range running {
					_ = b.Fake.StopContainer(ctx, c.ID, 0)
				}
			}
			return ids, err
		}
	}},
	{"identities are made anew", []string{"together/same identity", "together/at once"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			list = slices.Clone(list)
			made, _ := b.Fake.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: id})
			for i := range list {
				list[i].Attempt = uint32(len(made))
			}
			return b.Fake.RunContainers(ctx, id, list)
		}
	}},
	{"IDs are in any order", []string{"together/all"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			ids, err := b.Fake.RunContainers(ctx, id, list)
			slices.Reverse(ids)
			return ids, err
		}
	}},
	{"errors do not name the container", []string{"together/one cannot*", "together/sandbox"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			ids, err := b.Fake.RunContainers(ctx, id, list)
			if err != nil {
				err = errors.New("it did not work")
			}
			return ids, err
		}
	}},
	{"updates of anything succeed", []string{"update/not running"}, func(b *broken) {
		b.update = func(context.Context, string, specs.LinuxResources) error { return nil }
	}},
	{"new calls go on when cancelled", []string{"cancel/every call"}, func(b *broken) {
		b.update = func(ctx context.Context, id string, r specs.LinuxResources) error {
			return b.Fake.UpdateContainer(context.WithoutCancel(ctx), id, r)
		}
	}},
	{"a cancelled call leaves half of the containers", []string{"cancel/half way together"}, func(b *broken) {
		b.runContainers = func(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
			_, _ = b.Fake.CreateContainer(context.WithoutCancel(ctx), id, list[0])
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}},
	{"the file system of images is not known", []string{"image/file system"}, func(b *broken) {
		b.filesystem = func(context.Context) (runtimeiface.Filesystem, error) {
			return runtimeiface.Filesystem{Path: "/images"}, nil
		}
	}},
	{"broken images are images", []string{"image/broken layers", "image/unknown kinds", "image/other platform"}, func(b *broken) {
		b.pull = func(ctx context.Context, s runtimeiface.ImageSpec, p func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
			for _, odd := range []string{"truncated", "schema1", "other"} {
				if strings.Contains(s.Ref, odd) {
					s.Ref = "registry.test/test/prog:1"
				}
			}
			return b.Fake.PullImage(ctx, s, p)
		}
	}},
	{"an index is no image", []string{"image/index"}, func(b *broken) {
		b.pull = func(ctx context.Context, s runtimeiface.ImageSpec, p func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
			if strings.Contains(s.Ref, "multi") {
				return runtimeiface.Image{}, runtimeiface.ErrNotFound
			}
			return b.Fake.PullImage(ctx, s, p)
		}
	}},
	{"mounts of images are not looked at", []string{"image volume/refused", "image volume/in use"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Mounts = nil
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"any container may be a target", []string{"namespace/bad target"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.PID, s.PIDTarget = "", ""
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"a user namespace is ignored", []string{"userns/excludes"}, func(b *broken) {
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.UserNamespace = nil
			return b.Fake.RunSandbox(ctx, s)
		}
	}},
	{"any container may be privileged, with any capability", []string{"security/privileged sandbox", "security/bad capability"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Security = runtimeiface.Security{}
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"rotation loses what comes meanwhile", []string{"log/reopen"}, func(b *broken) {
		b.reopen = func(ctx context.Context, id string) error {
			_ = b.Fake.ReopenLog(ctx, id)
			return b.Fake.Exit(id, 0)
		}
	}},
	{"the loss of a keeper is not noticed", []string{"keeper/killed*", "keeper/exits before"}, func(b *broken) {
		b.killKeeper = func(context.Context, string) error { return nil }
	}},
	{"the loss of a keeper is told as a success of all", []string{"keeper/killed*", "keeper/exits before"}, func(b *broken) {
		b.killKeeper = func(_ context.Context, id string) error { return b.Fake.KillShim(id) }
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			c, err := b.Fake.ContainerStatus(ctx, id)
			if s, sandboxErr := b.Fake.SandboxStatus(ctx, c.SandboxID); sandboxErr == nil && s.State == runtimeiface.SandboxNotReady {
				c.ExitCode, c.Reason = 0, runtimeiface.ReasonCompleted
			}
			return c, err
		}
	}},
	{"what runs ends with the daemon", []string{"restart/daemon"}, func(b *broken) {
		b.restartDaemon = func(context.Context) error { b.Fake.Reboot(false); return nil }
	}},
	{"a subscription stays with the dead", []string{"restart/daemon's events"}, func(b *broken) {
		b.restartDaemon = func(context.Context) error { b.Fake.Silence(true); return nil }
	}},
}

func oneByOne(ctx context.Context, b *broken, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
	var ids []string
	for _, spec := range list {
		made, err := b.Fake.CreateContainer(ctx, id, spec)
		if err == nil {
			err = b.Fake.StartContainer(ctx, made)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, made)
	}
	return ids, nil
}
