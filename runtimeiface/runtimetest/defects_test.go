package runtimetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// broken is a fake whose calls can be replaced, one defect at a time.
type broken struct {
	*runtimetest.Fake
	runSandbox     func(context.Context, runtimeiface.SandboxSpec) (string, error)
	stopSandbox    func(context.Context, string) error
	removeSandbox  func(context.Context, string) error
	sandboxStatus  func(context.Context, string) (runtimeiface.Sandbox, error)
	listSandboxes  func(context.Context, runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error)
	create         func(context.Context, string, runtimeiface.ContainerSpec) (string, error)
	start          func(context.Context, string) error
	stop           func(context.Context, string, time.Duration) error
	remove         func(context.Context, string) error
	status         func(context.Context, string) (runtimeiface.Container, error)
	listContainers func(context.Context, runtimeiface.ContainerFilter) ([]runtimeiface.Container, error)
	exec           func(context.Context, string, runtimeiface.ExecSpec) (int, error)
	pull           func(context.Context, runtimeiface.ImageSpec, func(runtimeiface.PullProgress)) (runtimeiface.Image, error)
	removeImage    func(context.Context, string) error
	listImages     func(context.Context) ([]runtimeiface.Image, error)
	reopen         func(context.Context, string) error
	subscribe      func(context.Context) (<-chan runtimeiface.Event, error)
	attach         func(context.Context, string, runtimeiface.AttachSpec) error
	forward        func(context.Context, string, uint16, io.ReadWriteCloser) error
	runContainers  func(context.Context, string, []runtimeiface.ContainerSpec) ([]string, error)
	update         func(context.Context, string, specs.LinuxResources) error
	filesystem     func(context.Context) (runtimeiface.Filesystem, error)
	// What a subject can have done from outside.
	killKeeper    func(context.Context, string) error
	restartDaemon func(context.Context) error
}

func (b *broken) Attach(ctx context.Context, id string, spec runtimeiface.AttachSpec) error {
	return or(b.attach, b.Fake.Attach)(ctx, id, spec)
}

func (b *broken) PortForward(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
	return or(b.forward, b.Fake.PortForward)(ctx, id, port, conn)
}

func (b *broken) RunContainers(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
	return or(b.runContainers, b.Fake.RunContainers)(ctx, id, list)
}

func (b *broken) UpdateContainer(ctx context.Context, id string, r specs.LinuxResources) error {
	return or(b.update, b.Fake.UpdateContainer)(ctx, id, r)
}

func (b *broken) ImageFilesystem(ctx context.Context) (runtimeiface.Filesystem, error) {
	return or(b.filesystem, b.Fake.ImageFilesystem)(ctx)
}

func (b *broken) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	return or(b.runSandbox, b.Fake.RunSandbox)(ctx, spec)
}

func (b *broken) StopSandbox(ctx context.Context, id string) error {
	return or(b.stopSandbox, b.Fake.StopSandbox)(ctx, id)
}

func (b *broken) RemoveSandbox(ctx context.Context, id string) error {
	return or(b.removeSandbox, b.Fake.RemoveSandbox)(ctx, id)
}

func (b *broken) SandboxStatus(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
	return or(b.sandboxStatus, b.Fake.SandboxStatus)(ctx, id)
}

func (b *broken) ListSandboxes(ctx context.Context, f runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	return or(b.listSandboxes, b.Fake.ListSandboxes)(ctx, f)
}

func (b *broken) CreateContainer(ctx context.Context, id string, spec runtimeiface.ContainerSpec) (string, error) {
	return or(b.create, b.Fake.CreateContainer)(ctx, id, spec)
}

func (b *broken) StartContainer(ctx context.Context, id string) error {
	return or(b.start, b.Fake.StartContainer)(ctx, id)
}

func (b *broken) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	return or(b.stop, b.Fake.StopContainer)(ctx, id, grace)
}

func (b *broken) RemoveContainer(ctx context.Context, id string) error {
	return or(b.remove, b.Fake.RemoveContainer)(ctx, id)
}

func (b *broken) ContainerStatus(ctx context.Context, id string) (runtimeiface.Container, error) {
	return or(b.status, b.Fake.ContainerStatus)(ctx, id)
}

func (b *broken) ListContainers(ctx context.Context, f runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
	return or(b.listContainers, b.Fake.ListContainers)(ctx, f)
}

func (b *broken) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	return or(b.exec, b.Fake.Exec)(ctx, id, spec)
}

func (b *broken) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, p func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	return or(b.pull, b.Fake.PullImage)(ctx, spec, p)
}

func (b *broken) RemoveImage(ctx context.Context, ref string) error {
	return or(b.removeImage, b.Fake.RemoveImage)(ctx, ref)
}

func (b *broken) ListImages(ctx context.Context) ([]runtimeiface.Image, error) {
	return or(b.listImages, b.Fake.ListImages)(ctx)
}

func (b *broken) ReopenLog(ctx context.Context, id string) error {
	return or(b.reopen, b.Fake.ReopenLog)(ctx, id)
}

func (b *broken) Subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	return or(b.subscribe, b.Fake.Subscribe)(ctx)
}

func or[F any](replaced, original F) F {
	if reflect.ValueOf(replaced).IsNil() {
		return original
	}
	return replaced
}

// defects are ways in which runtimes have been wrong, each with the cases that
// must see it. A pattern may name several.
type defect struct {
	name string
	seen []string
	make func(*broken)
}

var defects = []defect{
	{"every run makes another sandbox", []string{"sandbox/same identity", "concurrency/one sandbox"}, func(b *broken) {
		var n atomic.Uint32
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.Attempt += n.Add(1)
			return b.Fake.RunSandbox(ctx, s)
		}
	}},
	{"attempts are not told apart", []string{"sandbox/attempts", "container/attempts"}, func(b *broken) {
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.Attempt = 0
			return b.Fake.RunSandbox(ctx, s)
		}
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Attempt = 0
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"labels are lost", []string{"sandbox/run", "sandbox/list", "container/create", "container/list"}, func(b *broken) {
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.Labels = nil
			return b.Fake.RunSandbox(ctx, s)
		}
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Labels = nil
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"a stopped sandbox stays ready", []string{"sandbox/stop", "sandbox/list"}, func(b *broken) {
		b.stopSandbox = func(context.Context, string) error { return nil }
	}},
	{"unknown IDs are errors", []string{"sandbox/unknown", "container/unknown"}, func(b *broken) {
		b.removeSandbox = func(ctx context.Context, id string) error {
			if _, err := b.Fake.SandboxStatus(ctx, id); err != nil {
				return err
			}
			return b.Fake.RemoveSandbox(ctx, id)
		}
		b.remove = func(ctx context.Context, id string) error {
			if _, err := b.Fake.ContainerStatus(ctx, id); err != nil {
				return err
			}
			return b.Fake.RemoveContainer(ctx, id)
		}
	}},
	{"unknown IDs are no errors", []string{"sandbox/unknown", "container/unknown", "sandbox/remove", "container/remove"}, func(b *broken) {
		b.sandboxStatus = func(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
			s, _ := b.Fake.SandboxStatus(ctx, id)
			return s, nil
		}
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			c, _ := b.Fake.ContainerStatus(ctx, id)
			return c, nil
		}
	}},
	{"lists are newest first and ignore filters", []string{"sandbox/list", "container/list"}, func(b *broken) {
		b.listSandboxes = func(ctx context.Context, _ runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
			list, err := b.Fake.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
			slices.Reverse(list)
			return list, err
		}
		b.listContainers = func(ctx context.Context, _ runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
			list, err := b.Fake.ListContainers(ctx, runtimeiface.ContainerFilter{})
			slices.Reverse(list)
			return list, err
		}
	}},
	{"what is given is shared", []string{"sandbox/copies", "container/copies"}, func(b *broken) {
		sandboxes, containers := map[string]runtimeiface.Sandbox{}, map[string]runtimeiface.Container{}
		b.sandboxStatus = func(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
			if _, ok := sandboxes[id]; !ok {
				sandboxes[id], _ = b.Fake.SandboxStatus(ctx, id)
			}
			return sandboxes[id], nil
		}
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			if _, ok := containers[id]; !ok {
				containers[id], _ = b.Fake.ContainerStatus(ctx, id)
			}
			return containers[id], nil
		}
	}},
	{"bad fields are taken", []string{"sandbox/invalid", "container/invalid"}, func(b *broken) {
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.Name = "any"
			return b.Fake.RunSandbox(ctx, s)
		}
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Mounts, s.LogPath = nil, path.Base(s.LogPath)
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"an unknown handler is the default one", []string{"sandbox/unknown handler"}, func(b *broken) {
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.RuntimeHandler = ""
			return b.Fake.RunSandbox(ctx, s)
		}
	}},
	{"exit codes are lost", []string{"container/exit*", "stop/with grace", "container/start error", "restart/exit meanwhile"}, func(b *broken) {
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			c, err := b.Fake.ContainerStatus(ctx, id)
			c.ExitCode = 0
			return c, err
		}
	}},
	{"times are of the look", []string{"container/times", "stop/exited", "restart/exit meanwhile"}, func(b *broken) {
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			c, err := b.Fake.ContainerStatus(ctx, id)
			if c.State == runtimeiface.ContainerExited {
				c.FinishedAt = time.Now()
				time.Sleep(time.Millisecond)
			}
			return c, err
		}
	}},
	{"grace is not given", []string{"stop/ignored", "stop/with grace", "stop/cancelled", "stop/shorter", "stop/signal*"}, func(b *broken) {
		b.stop = func(ctx context.Context, id string, _ time.Duration) error { return b.Fake.StopContainer(ctx, id, 0) }
	}},
	{"grace never ends sooner", []string{"stop/shorter"}, func(b *broken) {
		first := map[string]bool{}
		b.stop = func(ctx context.Context, id string, grace time.Duration) error {
			if first[id] {
				grace = time.Hour
			}
			first[id] = true
			return b.Fake.StopContainer(ctx, id, grace)
		}
	}},
	{"stop does not wait", []string{"stop/with grace", "stop/cancelled"}, func(b *broken) {
		b.stop = func(_ context.Context, id string, grace time.Duration) error {
			go func() { _ = b.Fake.StopContainer(context.Background(), id, grace) }()
			return nil
		}
	}},
	{"a running container cannot be removed", []string{"container/remove"}, func(b *broken) {
		b.remove = func(ctx context.Context, id string) error {
			if c, err := b.Fake.ContainerStatus(ctx, id); err == nil && c.State == runtimeiface.ContainerRunning {
				return errors.New("it is running")
			}
			return b.Fake.RemoveContainer(ctx, id)
		}
	}},
	{"the configuration of images is not seen", []string{"spec/arguments", "spec/environment", "spec/working directory", "spec/hostname", "exec/surroundings"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Env, s.WorkingDir, s.Args = append(s.Env, "FROM_IMAGE="), "/tmp", strings.Fields(strings.Join(s.Args, " "))
			return b.Fake.CreateContainer(ctx, id, s)
		}
		b.runSandbox = func(ctx context.Context, s runtimeiface.SandboxSpec) (string, error) {
			s.Hostname = "localhost"
			return b.Fake.RunSandbox(ctx, s)
		}
	}},
	{"commands and arguments are mixed up", []string{"spec/command"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.Command, s.Args = nil, append(s.Command, s.Args...)
			return b.Fake.CreateContainer(ctx, id, s)
		}
	}},
	{"exec mixes streams up and loses codes", []string{"exec/result", "exec/no streams", "exec/at the same time", "restart/calls"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			s.Stderr = s.Stdout
			_, err := b.Fake.Exec(ctx, id, s)
			return 0, err
		}
	}},
	{"exec caps output and input at 64 KiB", []string{"exec/large output", "exec/stdin"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			var out bytes.Buffer
			to := s.Stdout
			s.Stdout = &out
			code, err := b.Fake.Exec(ctx, id, s)
			if to != nil {
				_, _ = io.CopyN(to, &out, 64<<10)
			}
			return code, err
		}
	}},
	{"exec errors are not told apart", []string{"exec/not running", "exec/empty command", "exec/time-out", "exec/no such command"}, func(b *broken) {
		b.exec = func(ctx context.Context, id string, s runtimeiface.ExecSpec) (int, error) {
			_, _ = b.Fake.Exec(ctx, id, s)
			return 0, nil
		}
	}},
	{"pull tells no progress", []string{"image/pull"}, func(b *broken) {
		b.pull = func(ctx context.Context, s runtimeiface.ImageSpec, _ func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
			return b.Fake.PullImage(ctx, s, nil)
		}
	}},
	{"pull ignores credentials and errors", []string{"image/private", "image/errors"}, func(b *broken) {
		b.pull = func(ctx context.Context, s runtimeiface.ImageSpec, p func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
			s.Auth = nil
			img, err := b.Fake.PullImage(ctx, s, p)
			if err != nil {
				err = errors.New(err.Error())
			}
			return img, err
		}
	}},
	{"pull goes on when cancelled", []string{"image/cancelled pull", "cancel/every call"}, func(b *broken) {
		b.pull = func(ctx context.Context, s runtimeiface.ImageSpec, p func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
			return b.Fake.PullImage(context.WithoutCancel(ctx), s, p)
		}
	}},
	{"images in use and other names are removed", []string{"image/in use", "image/two names"}, func(b *broken) {
		b.removeImage = func(ctx context.Context, ref string) error {
			img, err := b.Fake.ImageStatus(ctx, ref)
			if err == nil {
				ref = img.ID
			}
			err = b.Fake.RemoveImage(ctx, ref)
			if errors.Is(err, runtimeiface.ErrInUse) {
				return nil
			}
			return err
		}
	}},
	{"images are listed in any order", []string{"image/list"}, func(b *broken) {
		b.listImages = func(ctx context.Context) ([]runtimeiface.Image, error) {
			list, err := b.Fake.ListImages(ctx)
			slices.Reverse(list)
			return list, err
		}
	}},
	{"the log is not reopened", []string{"log/reopen"}, func(b *broken) {
		b.reopen = func(context.Context, string) error { return nil }
	}},
	{"logs are never written", []string{"log/long line", "log/both streams", "log/bytes", "log/many lines"}, func(b *broken) {
		b.create = func(ctx context.Context, id string, s runtimeiface.ContainerSpec) (string, error) {
			s.LogPath += ".elsewhere"
			return b.Fake.CreateContainer(ctx, id, s)
		}
		b.status = func(ctx context.Context, id string) (runtimeiface.Container, error) {
			c, err := b.Fake.ContainerStatus(ctx, id)
			c.LogPath = strings.TrimSuffix(c.LogPath, ".elsewhere")
			return c, err
		}
	}},
	{"the channel of events never closes", []string{"event/end"}, func(b *broken) {
		b.subscribe = func(ctx context.Context) (<-chan runtimeiface.Event, error) {
			return make(chan runtimeiface.Event), ctx.Err()
		}
	}},
	{"events come backwards", []string{"event/order"}, func(b *broken) {
		b.subscribe = func(ctx context.Context) (<-chan runtimeiface.Event, error) {
			events, err := b.Fake.Subscribe(ctx)
			swapped := make(chan runtimeiface.Event)
			go func() {
				defer close(swapped)
				for first := range events {
					if first.Type == runtimeiface.ContainerMade {
						if second, ok := <-events; ok {
							swapped <- second
						}
					}
					select {
					case swapped <- first:
					case <-ctx.Done():
						return
					}
				}
			}()
			return swapped, err
		}
	}},
	{"a restart ends what runs", []string{"restart/goes on", "restart/exit meanwhile", "restart/logs", "restart/calls"}, nil},
}

func TestCasesSeeDefects(t *testing.T) {
	cases := runtimetest.Cases()
	for _, d := range slices.Concat(defects, streamDefects, togetherDefects) {
		t.Run(d.name, func(t *testing.T) {
			for _, pattern := range d.seen {
				met := false
				for _, c := range cases {
					if ok, err := path.Match(pattern, c.Name); err != nil || !ok || slices.Contains(c.Needs, runtimetest.Kernel) {
						continue
					}
					met = true
					synctest.Test(t, func(t *testing.T) { seesDefect(t, c, d.make) })
				}
				if !met {
					t.Errorf("no case is named %q", pattern)
				}
			}
		})
	}
}

func seesDefect(t *testing.T, c runtimetest.Case, make func(*broken)) {
	t.Helper()
	fake, subject := fakeSubject(t)
	b := &broken{Fake: fake}
	if make != nil {
		make(b)
	}
	subject.Runtime = b
	if b.killKeeper != nil {
		subject.KillKeeper = b.killKeeper
	}
	if b.restartDaemon != nil {
		subject.RestartDaemon = b.restartDaemon
	}
	subject.Restart = func(context.Context) (runtimeiface.Runtime, error) {
		if make == nil {
			fake.Reboot(false)
		}
		fake.LoseEvents()
		return b, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Run(ctx, subject); err == nil {
		t.Errorf("case %q does not see it", c.Name)
	} else {
		t.Logf("%s: %v", c.Name, err)
	}
}
