// Command nodebench measures what a user of the library gets, side by side with
// what there is without it, in one run: each subcommand prints a table in
// Markdown. It runs as root, in namespaces and directories of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

const usage = `usage: nodebench node|runtime|pods|metrics|proxy [flags]

  node     the quickstart's agent as a user meets it: manifest to running, many
           pods at once, crash to running again, what agent and shims weigh
  runtime  runtimeiface/oci and runtimeiface/cri beside containerd, beside the
           bare sequence of the same OCI runtime and beside the kernel alone
  pods     examples/staticpods, on containerd and daemonless, beside the kubelet
           on the same containerd and beside bare calls
  metrics  metrics beside cAdvisor's library and containerd/cgroups on the same
           cgroups of sleeping processes: CPU, allocations, memory, scrapes, new cgroups
  proxy    proxyrules/nftables beside kube-proxy: loads, changes, connections

nodebench SUBCOMMAND --help lists the flags. Programs are looked for in PATH;
make bench, make bench-runtime, make bench-pods and make bench-proxy build them
first.
`

func main() {
	commands := map[string]func(args []string) int{"node": nodeMain, "runtime": runtimeMain, "pods": podsMain, "metrics": metricsMain,
		"proxy": proxyMain, "proxy-agent": proxyAgentMain} // the last one is what proxy starts
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	os.Exit(commands[os.Args[1]](os.Args[2:]))
}

// parse gives the exit code of a command line that is no order, or -1.
func parse(flags *flag.FlagSet, args []string) int {
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "nodebench: what is %q?\n", flags.Arg(0))
		return 2
	}
	return -1
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "nodebench:", err)
	return 1
}
