package runtimetest

import (
	"github.com/nodekit/nodekit/runtimeiface"
)

func specCases() []Case {
	return []Case{
		newCase("spec/command", "Command replaces entry point and arguments, Args the arguments, neither takes the image's", commandCase),
		newCase("spec/arguments", "arguments arrive as they are, without a shell", argumentsCase),
		newCase("spec/environment", "Env is added to the image's, later ones win", environmentCase),
		newCase("spec/working directory", "WorkingDir, or the image's", workingDirCase),
		newCase("spec/hostname", "the host name is Hostname, or the pod's name", hostnameCase),
	}
}

func commandCase(k *kit) {
	sb := k.pod()
	image := k.image(k.s.Images.Configured)
	for _, t := range []struct {
		command, args []string
		want          string
	}{
		{nil, nil, "from image\n"},
		{nil, []string{"print", "from", "args"}, "from args\n"},
		{[]string{"/prog", "print", "from", "command"}, nil, "from command\n"},
		{[]string{"/prog", "print", "from"}, []string{"both"}, "from both\n"},
	} {
		spec := k.container()
		spec.Image, spec.Command, spec.Args = image, t.command, t.args
		id := k.start(sb, spec)
		k.logHas(k.status(id).LogPath, t.want)
		k.same(k.logText(k.status(id).LogPath), t.want, "output of command %q with arguments %q", t.command, t.args)
	}
}

func argumentsCase(k *kit) {
	want := []string{"args", "", " two  spaces ", "$HOME", `"quoted"`, "'", "*", "ümläut", `back\slash`, "-flag"}
	text := ""
	for _, a := range want[1:] {
		text += a + "\n"
	}
	k.same(k.output(k.pod(), want...), text, "arguments as they arrived")
}

func environmentCase(k *kit) {
	spec := k.container("env", "FROM_IMAGE", ";", "env", "FROM_BOTH", ";", "env", "FROM_SPEC", ";", "env", "EMPTY", ";", "env", "TWICE")
	spec.Image = k.image(k.s.Images.Configured)
	spec.Env = []string{"FROM_BOTH=spec", "FROM_SPEC=a=b $c", "EMPTY=", "TWICE=1", "TWICE=2"}
	sb := k.pod()
	k.same(k.outputOf(sb, spec), "image\nspec\na=b $c\n\n2\n", "environment")
	k.ends(k.prog(sb, "env", "FROM_SPEC"), 1, runtimeiface.ReasonError)
}

func workingDirCase(k *kit) {
	sb := k.pod()
	spec := k.container("cwd")
	k.same(k.outputOf(sb, spec), "/\n", "working directory of an image without one")
	spec = k.container("cwd")
	spec.Image = k.image(k.s.Images.Configured)
	k.same(k.outputOf(sb, spec), "/work\n", "working directory of the image")
	spec = k.container("cwd")
	spec.Image, spec.WorkingDir = k.image(k.s.Images.Configured), "/etc"
	k.same(k.outputOf(sb, spec), "/etc\n", "working directory of the container")
}

func hostnameCase(k *kit) {
	sb, spec := k.podSpec()
	k.same(k.output(sb, "hostname"), spec.Name+"\n", "host name without Hostname")
	named := k.pod(func(s *runtimeiface.SandboxSpec) { s.Hostname = "other-name" })
	k.same(k.output(named, "hostname"), "other-name\n", "host name with Hostname")
}
