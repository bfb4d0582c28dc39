package runtimetest

import (
	"context"

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
	// Restart ends what serves the newest Runtime as a crash would, and gives a
	// new one over the same state; nil if that cannot be done. Calls on the old
	// one are over by then. Keep the new one in Runtime for the cases to come.
	Restart func(ctx context.Context) (runtimeiface.Runtime, error)
}

// Missing gives those needs of a case that the subject does not have.
func (s Subject) Missing(c Case) []Need {
	var missing []Need
	for _, need := range c.Needs {
		switch {
		case need == Kernel && s.Kernel, need == Restart && s.Restart != nil:
		default:
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
}

// FakeImages gives what Images describes, for the registry of a Fake.
func FakeImages() (Images, []FakeImage) {
	refs := Images{
		Prog: "registry.test/test/prog:1", Configured: "registry.test/test/configured:1",
		Spare: "registry.test/test/spare:1", SpareAlias: "registry.test/test/spare:alias",
		Missing: "registry.test/test/missing:1", Private: "private.test/test/private:1",
		PrivateAuth: &runtimeiface.Auth{Username: "user", Password: "secret"},
		Unreachable: "gone.test/test/prog:1",
	}
	prog := FakeImage{Choose: Prog, Entrypoint: []string{"/prog"}, Cmd: []string{"forever"}}
	as := func(ref string, change func(*FakeImage)) FakeImage {
		img := prog
		img.Ref = ref
		change(&img)
		return img
	}
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
		as(refs.Unreachable, func(img *FakeImage) { img.PullErr = runtimeiface.ErrUnavailable }),
	}
}
