// Package runtimetest holds the promises of package runtimeiface as cases that
// any runtime can be held to, and a Fake that keeps them in memory.
//
// # A fake for tests of an agent
//
//	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{
//		Clock: testingclock.NewFakeClock(start), // or nil inside testing/synctest
//		Images: []runtimetest.FakeImage{
//			{Ref: "registry.test/web:1"}, // runs until it is stopped
//			{Ref: "registry.test/job:1", Program: runtimetest.Program{
//				Exit: &runtimetest.Exit{After: time.Second, Code: 3}}},
//		},
//	})
//
// The Fake is stateful: what an agent made is what it finds, also after a
// restart of the agent. Tests push what happens from outside ([Fake.Exit],
// [Fake.OOM], [Fake.KillShim], [Fake.Reboot]), let calls go wrong
// ([Fake.Inject]) and look at what was called ([Fake.Calls], [Fake.State]).
//
// Programs can wait, fail to start, ignore the stop signal, answer exec and what
// is typed at them, listen on ports, run out of memory, or be chosen by command
// and attempt: see [Program] and [FakeImage].
// In a testing/synctest bubble make the Fake inside of it and give no Clock: the
// bubble's time is the fake's.
//
// # The promises, for whoever writes a runtime
//
// [Cases] are free of any test framework: a name, the promise, and a function
// that returns what it saw instead. Fill a [Subject] with the runtime, the images
// of testimage.Serve, a directory for logs and, if they can be had, functions that
// restart the runtime or its daemon and kill a sandbox's keeper; run the cases one
// after another; skip those whose needs the subject does not meet, as
// [Subject.Missing] tells. The example of Cases shows it whole.
//
// A case makes pods under names of its own and removes them, so that it runs
// beside whatever else a runtime holds. Waiting ends after 20 seconds, times the
// environment's NODEKIT_TIME_FACTOR on slow machines; calls that hang end with ctx. Cases that need [Kernel] make mounts and files below LogRoot,
// listen on ports of the node's loopback and on 47817 of its addresses, and use no
// more than 1 GiB of memory.
//
// # Traps
//
//   - Images are in the fake's registry until pulled; FakeImage.Present skips that.
//   - CreateContainer wants the ID that PullImage gave, not the reference.
//   - With a testing clock a stop with grace, a slow pull and a delayed exec wait
//     until the test steps the clock.
package runtimetest
