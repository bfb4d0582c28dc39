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
// # Traps
//
//   - Images are in the fake's registry until pulled; FakeImage.Present skips that.
//   - CreateContainer wants the ID that PullImage gave, not the reference.
//   - With a testing clock a stop with grace, a slow pull and a delayed exec wait
//     until the test steps the clock.
package runtimetest
