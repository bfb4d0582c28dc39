package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func cancelCases() []Case {
	return []Case{
		newCase("cancel/every call", "a call whose ctx has ended gives ctx's error and changes nothing", cancelEveryCall),
		newCase("cancel/half way of a container", "a container whose create, start or stop is cancelled at any moment is whole, and can be gone on with", cancelContainer),
		newCase("cancel/half way together", "RunContainers that is cancelled at any moment runs all or none", cancelTogether),
		newCase("cancel/half way", "a run that is cancelled at any moment leaves a whole sandbox or none", cancelHalfWay),
	}
}

func cancelEveryCall(k *kit) {
	sb, spec := k.podSpec()
	runs, made := k.ready(sb), k.create(sb, k.container())
	ended, cancel := context.WithCancel(k.ctx)
	cancel()
	fresh, image := k.spec(), k.s.Images.Prog
	container := k.container()
	for name, call := range map[string]func() error{
		"Version":         func() error { _, err := k.rt.Version(ended); return err },
		"RunSandbox":      func() error { _, err := k.rt.RunSandbox(ended, fresh); return err },
		"StopSandbox":     func() error { return k.rt.StopSandbox(ended, sb) },
		"RemoveSandbox":   func() error { return k.rt.RemoveSandbox(ended, sb) },
		"SandboxStatus":   func() error { _, err := k.rt.SandboxStatus(ended, sb); return err },
		"ListSandboxes":   func() error { _, err := k.rt.ListSandboxes(ended, runtimeiface.SandboxFilter{}); return err },
		"CreateContainer": func() error { _, err := k.rt.CreateContainer(ended, sb, container); return err },
		"StartContainer":  func() error { return k.rt.StartContainer(ended, made) },
		"StopContainer":   func() error { return k.rt.StopContainer(ended, runs, 0) },
		"RemoveContainer": func() error { return k.rt.RemoveContainer(ended, made) },
		"ContainerStatus": func() error { _, err := k.rt.ContainerStatus(ended, runs); return err },
		"ListContainers":  func() error { _, err := k.rt.ListContainers(ended, runtimeiface.ContainerFilter{}); return err },
		"PullImage": func() error {
			_, err := k.rt.PullImage(ended, runtimeiface.ImageSpec{Ref: image}, nil)
			return err
		},
		"ImageStatus": func() error { _, err := k.rt.ImageStatus(ended, image); return err },
		"ListImages":  func() error { _, err := k.rt.ListImages(ended); return err },
		"RemoveImage": func() error { return k.rt.RemoveImage(ended, image) },
		"Exec": func() error {
			_, err := k.rt.Exec(ended, runs, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "0"}})
			return err
		},
		"Attach": func() error { return k.rt.Attach(ended, runs, runtimeiface.AttachSpec{}) },
		"PortForward": func() error {
			read, write := io.Pipe()
			return k.rt.PortForward(ended, sb, 47815, duplex{read, write})
		},
		"RunContainers": func() error {
			_, err := k.rt.RunContainers(ended, sb, []runtimeiface.ContainerSpec{container})
			return err
		},
		"UpdateContainer": func() error { return k.rt.UpdateContainer(ended, runs, *limited(64<<20, 0)) },
		"ImageFilesystem": func() error { _, err := k.rt.ImageFilesystem(ended); return err },
		"ReopenLog":       func() error { return k.rt.ReopenLog(ended, runs) },
		"Subscribe":       func() error { _, err := k.rt.Subscribe(ended); return err },
	} {
		k.is(call(), context.Canceled, "%s with a ctx that has ended", name)
	}
	k.same(k.sandbox(sb).State, runtimeiface.SandboxReady, "state of the sandbox")
	k.same(k.status(runs).State, runtimeiface.ContainerRunning, "state of the running container")
	k.same(k.status(made).State, runtimeiface.ContainerCreated, "state of the created container")
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 2, "containers of the sandbox")
	for uid, want := range map[string]int{spec.UID: 1, fresh.UID: 0} {
		list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: uid})
		k.ok(err, "list")
		k.same(len(list), want, "sandboxes of a pod")
	}
}

func cancelHalfWay(k *kit) {
	for i := range 10 {
		spec := k.spec()
		ctx, cancel := context.WithTimeout(k.ctx, time.Duration(i)*4*time.Millisecond)
		id, err := k.rt.RunSandbox(ctx, spec)
		cancel()
		if err == nil {
			k.removeLater(id)
		} else {
			k.is(err, context.DeadlineExceeded, "run that is cancelled")
		}
		// What was begun may still be finished or undone.
		again := k.runPod(spec)
		k.that(err != nil || again == id, "the same identity is two sandboxes")
		s := k.sandbox(again)
		k.same(s.State, runtimeiface.SandboxReady, "state after the call was repeated")
		k.that(len(s.IPs) > 0, "there is no address after the call was repeated")
		k.eventually("one sandbox", func() error {
			list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: spec.UID})
			k.ok(err, "list")
			if len(list) != 1 {
				return fmt.Errorf("there are %d", len(list))
			}
			return nil
		})
		k.same(k.output(again, "print", "works"), "works\n", "output")
	}
}

func cancelContainer(k *kit) {
	sb := k.pod()
	for i := range 10 {
		limit := func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(k.ctx, time.Duration(i)*4*time.Millisecond)
		}
		tolerate := func(err error, act string) {
			if err != nil {
				k.is(err, context.DeadlineExceeded, "%s that is cancelled", act)
			}
		}
		spec := k.container("print", "ran", ";", "forever")
		ctx, cancel := limit()
		_, err := k.rt.CreateContainer(ctx, sb, spec)
		cancel()
		tolerate(err, "create")
		id := k.create(sb, spec)
		ctx, cancel = limit()
		tolerate(k.rt.StartContainer(ctx, id), "start")
		cancel()
		k.ok(k.rt.StartContainer(k.ctx, id), "start again")
		k.logHas(k.status(id).LogPath, "ran\n")
		ctx, cancel = limit()
		tolerate(k.rt.StopContainer(ctx, id, 0), "stop")
		cancel()
		k.stop(id, 0)
		c := k.ends(id, 137, runtimeiface.ReasonError)
		k.same(k.logText(c.LogPath), "ran\n", "log of a program that ran once")
		ctx, cancel = limit()
		tolerate(k.rt.RemoveContainer(ctx, id), "remove")
		cancel()
		k.ok(k.rt.RemoveContainer(k.ctx, id), "remove again")
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 0, "containers left")
}

func cancelTogether(k *kit) {
	for i := range 8 {
		sb := k.pod()
		list := []runtimeiface.ContainerSpec{k.container("forever"), k.container("forever")}
		ctx, cancel := context.WithTimeout(k.ctx, time.Duration(i)*15*time.Millisecond)
		_, err := k.rt.RunContainers(ctx, sb, list)
		cancel()
		if err != nil {
			k.is(err, context.DeadlineExceeded, "run that is cancelled")
		}
		k.eventually("all or none", func() error {
			got, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
			k.ok(err, "list")
			count := map[runtimeiface.ContainerState]int{}
			for _, c := range got {
				count[c.State]++
			}
			if n := len(got); n == 0 || n == 2 && (count[runtimeiface.ContainerRunning] == n || count[runtimeiface.ContainerExited] == n) {
				return nil
			}
			return fmt.Errorf("states are %v", count)
		})
		k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
	}
}

func concurrencyCases() []Case {
	return []Case{
		newCase("concurrency/many pods", "pods do not disturb one another", manyPods),
		newCase("concurrency/one sandbox", "runs of the same identity at once make one sandbox", oneSandbox),
		newCase("concurrency/one container", "creates of the same identity at once make one container, which starts once", oneContainer),
		newCase("concurrency/everything at once", "calls on one container that race end in order", racingCalls),
		newCase("concurrency/streams", "attachments, commands and connections of one pod do not disturb one another", manyStreams),
		newCase("concurrency/pulls", "pulls of one image at once bring one image", racingPulls),
	}
}

// atOnce runs f n times at once. f must not use k.
func (k *kit) atOnce(n int, f func(i int) error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	k.ok(errors.Join(errs...), "%d at once", n)
}

func manyPods(k *kit) {
	const n = 20
	pods, containers := make([]runtimeiface.SandboxSpec, n), make([]runtimeiface.ContainerSpec, n)
	for i := range n {
		pods[i] = k.spec()
		containers[i] = k.container("exit", fmt.Sprint(i))
	}
	rt, ctx := k.rt, k.ctx
	ids := make([]string, n)
	k.atOnce(n, func(i int) error {
		sb, err := rt.RunSandbox(ctx, pods[i])
		if err != nil {
			return fmt.Errorf("run sandbox: %w", err)
		}
		if ids[i], err = rt.CreateContainer(ctx, sb, containers[i]); err != nil {
			return errors.Join(err, rt.RemoveSandbox(ctx, sb))
		}
		return rt.StartContainer(ctx, ids[i])
	})
	taken := map[string]bool{}
	for i, id := range ids {
		c := k.exited(id)
		k.removeLater(c.SandboxID)
		k.same(c.ExitCode, int32(i), "exit code of pod %d", i)
		s := k.sandbox(c.SandboxID)
		k.same(s.UID, pods[i].UID, "pod %d of the container", i)
		for _, ip := range s.IPs {
			k.that(!taken[ip.String()], "two pods have address %v", ip)
			taken[ip.String()] = true
		}
	}
	k.atOnce(n, func(i int) error {
		c, err := rt.ContainerStatus(ctx, ids[i])
		if err != nil {
			return err
		}
		return rt.RemoveSandbox(ctx, c.SandboxID)
	})
}

func oneSandbox(k *kit) {
	spec := k.spec()
	rt, ctx := k.rt, k.ctx
	ids := make([]string, 10)
	k.atOnce(len(ids), func(i int) (err error) {
		ids[i], err = rt.RunSandbox(ctx, spec)
		return err
	})
	k.removeLater(ids[0])
	for _, id := range ids {
		k.same(id, ids[0], "ID")
	}
	list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: spec.UID})
	k.ok(err, "list")
	k.same(len(list), 1, "sandboxes of the pod")
}

func oneContainer(k *kit) {
	sb := k.pod()
	spec := k.container("print", "once", ";", "print", endMark)
	rt, ctx := k.rt, k.ctx
	ids := make([]string, 10)
	k.atOnce(len(ids), func(i int) (err error) {
		ids[i], err = rt.CreateContainer(ctx, sb, spec)
		return err
	})
	for _, id := range ids {
		k.same(id, ids[0], "ID")
	}
	k.atOnce(len(ids), func(i int) error {
		if err := rt.StartContainer(ctx, ids[i]); err != nil && !errors.Is(err, runtimeiface.ErrNotRunning) {
			return err
		}
		return nil
	})
	k.same(k.untilEnd(k.exited(ids[0]).LogPath), "once\n", "output")
}

func racingCalls(k *kit) {
	sb := k.pod()
	rt, ctx := k.rt, k.ctx
	for range 5 {
		spec := k.container("forever")
		id := k.create(sb, spec)
		calls := []func() error{
			func() error { return rt.StartContainer(ctx, id) },
			func() error { return rt.StopContainer(ctx, id, time.Second) },
			func() error { return rt.StopContainer(ctx, id, 0) },
			func() error { _, err := rt.ContainerStatus(ctx, id); return err },
			func() error {
				_, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: sb})
				return err
			},
			func() error {
				_, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "0"}})
				if err != nil && !errors.Is(err, runtimeiface.ErrNotRunning) && !errors.Is(err, runtimeiface.ErrNotFound) {
					return nil // killed under its feet, however the backend words it
				}
				return err
			},
			func() error { return rt.RemoveContainer(ctx, id) },
		}
		k.atOnce(len(calls), func(i int) error {
			err := calls[i]()
			if errors.Is(err, runtimeiface.ErrNotRunning) || errors.Is(err, runtimeiface.ErrNotFound) {
				return nil
			}
			return err
		})
		_, err := rt.ContainerStatus(ctx, id)
		k.is(err, runtimeiface.ErrNotFound, "status after the removal")
	}
	k.same(k.output(sb, "print", "fine"), "fine\n", "output of the next container")
}

func manyStreams(k *kit) {
	sb := k.pod()
	id := k.ticks(sb)
	k.serve(sb, listenOn("127.0.0.1"))
	const n = 5
	var attachments []*attached
	var connections []*forwarding
	for range n {
		attachments, connections = append(attachments, k.attach(id, false)), append(connections, k.forward(sb, forwardPort))
	}
	rt, ctx := k.rt, k.ctx
	text := pattern(1 << 20)
	k.atOnce(2*n, func(i int) error {
		if i < n {
			got, err := runtimeiface.ExecSync(ctx, rt, id, []string{"/prog", "line", fmt.Sprint(1 << 20), ";", "exit", fmt.Sprint(i)})
			if err != nil || got.ExitCode != i || string(got.Stdout) != text+"\n" {
				return fmt.Errorf("command %d: exit code %d, %d bytes, %w", i, got.ExitCode, len(got.Stdout), err)
			}
			return nil
		}
		f := connections[i-n]
		sent := make(chan error, 1)
		go func() { _, err := io.WriteString(f, text); sent <- err }()
		got := make([]byte, len(text))
		_, err := io.ReadFull(f, got)
		if err = errors.Join(err, <-sent); err != nil || string(got) != text {
			return fmt.Errorf("connection %d: alike up to byte %d: %w", i-n, alike(string(got), text), err)
		}
		return nil
	})
	for _, a := range attachments {
		k.says(a, "line ")
	}
	k.stop(id, 0)
	for _, a := range attachments {
		k.wait(a.done, "attach until the end")
	}
}

func racingPulls(k *kit) {
	k.withoutSpare(func() {
		rt, ctx := k.rt, k.ctx
		images := make([]runtimeiface.Image, 6)
		k.atOnce(len(images), func(i int) (err error) {
			images[i], err = rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: k.s.Images.Spare}, nil)
			return err
		})
		for _, img := range images {
			k.same(img.ID, images[0].ID, "ID")
		}
		k.removeImage(images[0].ID)
	})
}
