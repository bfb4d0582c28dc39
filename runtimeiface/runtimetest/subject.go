package runtimetest

import (
	"context"
	"errors"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Need is something that a case cannot do without and not every subject has.
type Need string

// The needs that cases declare.
const (
	// Kernel: containers are processes of Linux, and what they see of mounts,
	// users, network and one another is the kernel's work.
	Kernel Need = "kernel"
	// Restart: Subject.Restart is there.
	Restart Need = "restart"
	// Daemon: Subject.RestartDaemon is there.
	Daemon Need = "daemon"
	// Keeper: Subject.KillKeeper is there.
	Keeper Need = "keeper"
	// UserNS: the runtime and the kernel can give pods user namespaces.
	UserNS Need = "userns"
	// Seccomp: the runtime can filter system calls.
	Seccomp Need = "seccomp"
	// AppArmor: the kernel enforces AppArmor profiles, and the runtime sets them.
	AppArmor Need = "apparmor"
)

// Case is one promise of runtimeiface, and a way to hold a runtime to it.
type Case struct {
	// Name is stable and unique, "role/what", fit for a subtest's name.
	Name string
	// Promise that is broken if Run fails.
	Promise string
	// Needs of the case, empty for most.
	Needs []Need
	// Run returns nil, or what was seen instead of the promise. It makes pods of
	// its own, removes them, and does not touch others. A call that hangs is ended
	// by ctx alone, so give it a deadline; a minute is plenty. Cases run one after
	// another: some remove Images.Spare, some restart the runtime.
	Run func(ctx context.Context, s Subject) error
}

// Subject is a runtime to be held to the promises.
type Subject struct {
	// Runtime under test; required.
	Runtime runtimeiface.Runtime
	// Images that Runtime can pull; required, from testimage.Serve.
	Images Images
	// LogRoot is an absolute directory for logs, that Runtime can write and the
	// cases can read; required.
	LogRoot string
	// Kernel says that containers are processes of Linux that see what a pod's
	// processes see, and may be limited in memory; the cases look from a process
	// in the node's namespaces, as root.
	Kernel bool
	// Restart ends the newest Runtime as a crash of its program would, and gives a
	// new one over the same state; nil if that cannot be done. A daemon that it
	// calls goes on. Calls on the old one are over by then. Keep the new one in
	// Runtime for the cases to come.
	Restart func(ctx context.Context) (runtimeiface.Runtime, error)
	// RestartDaemon ends what answers to the newest Runtime as a crash would, and
	// starts it anew, while Runtime stays; nil if there is no daemon.
	RestartDaemon func(ctx context.Context) error
	// KillKeeper kills what the runtime has watch over the containers of a sandbox,
	// its shim; nil if that cannot be done.
	KillKeeper func(ctx context.Context, sandboxID string) error
	// UserNS, Seccomp and AppArmor say that these can be had.
	UserNS, Seccomp, AppArmor bool
}

// Missing gives those needs of a case that the subject does not have.
func (s Subject) Missing(c Case) []Need {
	var missing []Need
	for _, need := range c.Needs {
		there := map[Need]bool{
			Kernel: s.Kernel, Restart: s.Restart != nil, Daemon: s.RestartDaemon != nil, Keeper: s.KillKeeper != nil,
			UserNS: s.UserNS, Seccomp: s.Seccomp, AppArmor: s.AppArmor,
		}
		if !there[need] {
			missing = append(missing, need)
		}
	}
	return missing
}

// Images are references that a subject's runtime can, or cannot, pull. Package
// testimage serves them; Prog, in this package, plays them for a Fake.
type Images struct {
	// Prog holds the helper program: entry point /prog, arguments "forever", user
	// root. Configured is the same with a configuration of its own: arguments
	// "print from image ; forever", FROM_IMAGE=image and FROM_BOTH=image in the
	// environment, working directory /work, user app (1000:1000, also in group
	// 1001), stop signal SIGQUIT; and a second layer that changes and removes
	// files of /layers.
	Prog, Configured string
	// Spare and SpareAlias are two tags, of one repository, of an image that the
	// cases remove.
	Spare, SpareAlias string
	// Missing is in no registry though the registry answers.
	Missing string
	// Private wants PrivateAuth. It is the same image as Spare.
	Private     string
	PrivateAuth *runtimeiface.Auth
	// Unreachable is in a registry that does not answer.
	Unreachable string
	// MultiArch is an index of an image as Prog for this platform and of others,
	// OtherPlatform one of others only.
	MultiArch, OtherPlatform string
	// Schema1 and UnknownType are manifests of kinds that are no longer, and not
	// yet, there.
	Schema1, UnknownType string
	// Truncated has a layer of which the second half is missing, Corrupt one that is
	// not what its digest says.
	Truncated, Corrupt string
	// Volume has no program: /hello with "volume\n", /dir/inner with "inner\n",
	// /owned of user and group 1000, and the symbolic link /out to
	// "../../../../../../etc".
	Volume string
}

// FakeImages gives what Images describes, for the registry of a Fake.
func FakeImages() (Images, []FakeImage) {
	refs := Images{
		Prog: "registry.test/test/prog:1", Configured: "registry.test/test/configured:1",
		Spare: "registry.test/test/spare:1", SpareAlias: "registry.test/test/spare:alias",
		Missing: "registry.test/test/missing:1", Private: "private.test/test/private:1",
		PrivateAuth: &runtimeiface.Auth{Username: "user", Password: "secret"},
		Unreachable: "gone.test/test/prog:1",
		MultiArch:   "registry.test/test/multi:1", OtherPlatform: "registry.test/test/other:1",
		Schema1: "registry.test/test/schema1:1", UnknownType: "registry.test/test/unknown:1",
		Truncated: "registry.test/test/truncated:1", Corrupt: "registry.test/test/corrupt:1",
		Volume: "registry.test/test/volume:1",
	}
	prog := FakeImage{Choose: Prog, Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}}
	as := func(ref string, change func(*FakeImage)) FakeImage {
		img := prog
		img.Ref = ref
		change(&img)
		return img
	}
	fails := func(err error) func(*FakeImage) { return func(img *FakeImage) { img.PullErr = err } }
	spare := func(img *FakeImage) { img.Content = "spare" }
	return refs, []FakeImage{
		as(refs.Prog, func(*FakeImage) {}),
		as(refs.Configured, func(img *FakeImage) {
			img.Cmd = []string{"print", "from", "image", ";", "forever"}
			img.Env = []string{"FROM_IMAGE=image", "FROM_BOTH=image"}
			img.WorkingDir, img.User, img.StopSignal = "/work", "app", "SIGQUIT"
			img.Layers = 2
		}),
		as(refs.Spare, spare), as(refs.SpareAlias, spare),
		as(refs.Private, func(img *FakeImage) { spare(img); img.Auth = refs.PrivateAuth }),
		as(refs.Unreachable, fails(runtimeiface.ErrUnavailable)),
		as(refs.MultiArch, func(*FakeImage) {}), as(refs.OtherPlatform, fails(runtimeiface.ErrNotFound)),
		as(refs.Schema1, fails(runtimeiface.ErrNotSupported)), as(refs.UnknownType, fails(runtimeiface.ErrNotSupported)),
		as(refs.Truncated, fails(runtimeiface.ErrUnavailable)), as(refs.Corrupt, fails(errors.New("wrong digest"))),
		{Ref: refs.Volume, Dirs: []string{"dir"}},
	}
}
