package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
)

const help = `serviceproxy serves Services on a node in kube-proxy's place: connections to a
Service's addresses and node ports go to its endpoints. It needs no API server:
Services and EndpointSlices are YAML or JSON files in a directory, and what is
edited there while it runs is done at once.

  serviceproxy --manifests DIR [flags]                     serve until a signal
  serviceproxy --manifests DIR --trace FROM TO/PORT/PROTO  what becomes of a packet
  serviceproxy --manifests DIR --render                    the rules, for nft -f or
                                                           with --mode iptables as those
  serviceproxy --cleanup                                   remove all rules

Start with two files in DIR:

  apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    clusterIP: 10.96.0.10      # nobody allocates one here: choose it
    ports: [{port: 80}]
  ---
  apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080}]
  endpoints: [{addresses: [10.244.0.5]}, {addresses: [10.244.1.7]}]

(A node port wants type NodePort and nodePort; they answer at --node-address.)
Then, as root, with IP forwarding on (sysctl net.ipv4.ip_forward=1):

  serviceproxy --manifests DIR --pod-cidr 10.244.0.0/16
  serviceproxy --manifests DIR --trace 10.244.0.5 10.96.0.10/80/tcp
  nft list table ip nodekit-proxy

A signal ends the program and not the rules: connections live on, and the next
start takes the rules up as they are. --cleanup removes them. --trace and
--render read only the files and need no root. Objects of other kinds in DIR are
left alone; a file with a mistake is told with the field, and what was known from
it before goes on.

Flags:
`

var modes = []string{"nftables", "iptables"}

// chainPrefix is how iptables chains begin.
const chainPrefix = "NODEKIT"

// options are the flags.
type options struct {
	manifests, table, mode string
	node                   proxyrules.Node
	listen                 []string
	packet                 proxyrules.Packet
	cleanup, render, trace bool
	verbose                bool
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var errs []error
	flags := flag.NewFlagSet("serviceproxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.manifests, "manifests", "", "`directory` of Services and EndpointSlices in YAML or JSON; required, but for --cleanup")
	flags.StringVar(&o.table, "table", "nodekit-proxy", "`name` of the nftables tables, one a family; nobody else's")
	flags.StringVar(&o.mode, "mode", modes[0], "`how` rules are written: nftables, or iptables for kernels without nf_tables")
	flags.StringVar(&o.node.Name, "node-name", "", "`name` of this node in EndpointSlices, for Local policies; empty for the host's")
	list(flags, "node-address", "`address` at which node ports answer, may be repeated; none for the node's primary ones", &o.node.Addresses, netip.ParseAddr)
	list(flags, "pod-cidr", "`network` of pods, of all nodes; may be repeated. What comes from elsewhere to a cluster IP gets the node's address", &o.node.PodCIDRs, netip.ParsePrefix)
	flags.StringVar(&o.node.Zone, "zone", "", "`zone` of this node, for hints in EndpointSlices")
	list(flags, "service-cidr", "`network` of cluster IPs, may be repeated: what goes to one that no Service has is dropped", &o.node.ServiceCIDRs, netip.ParsePrefix)
	list(flags, "local-cidr", "`network` of this node's pods, may be repeated: they tell pods from others in --pod-cidr's place", &o.node.LocalCIDRs, netip.ParsePrefix)
	flags.StringVar(&o.node.LocalInterface, "local-interface", "", "`link` of this node's pods, or cali* for those whose name begins so: tells pods from others in --pod-cidr's place")
	flags.BoolVar(&o.node.MasqueradeEgress, "masquerade-egress", false, "give what pods send out of --pod-cidr the node's address")
	list(flags, "no-masquerade", "`network` that sees pods' own addresses in spite of --masquerade-egress, may be repeated", &o.node.NoMasquerade, netip.ParsePrefix)
	flags.BoolVar(&o.node.MasqueradeAll, "masquerade-all", false, "give all traffic to cluster IPs the node's address")
	list(flags, "listen", "`address` of /healthz, /livez, /metrics and /proxyMode, such as 127.0.0.1:10256; may be repeated; none for none", &o.listen,
		func(text string) (string, error) { return text, nil })
	flags.BoolVar(&o.render, "render", false, "print the rules that the files make, and end")
	flags.BoolVar(&o.trace, "trace", false, "say what becomes of a packet, rule by rule, and end: --trace FROM TO/PORT/PROTO [LINK]")
	flags.BoolVar(&o.cleanup, "cleanup", false, "remove all that this program ever made in the table, and end")
	flags.BoolVar(&o.verbose, "v", false, "log every decision")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprint(out, help)
			flags.SetOutput(out)
			flags.PrintDefaults()
			return o, err
		}
		return o, fmt.Errorf("%w; --help teaches", err)
	}
	rest := flags.Args()
	if o.trace {
		var err error
		if o.packet, err = parsePacket(rest); err != nil {
			errs = append(errs, err)
		}
		rest = nil
	}
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag", rest[0]))
	}
	if !slices.Contains(modes, o.mode) {
		errs = append(errs, fmt.Errorf("--mode: %q is not nftables or iptables", o.mode))
	}
	if !o.cleanup {
		if info, err := os.Stat(o.manifests); o.manifests == "" {
			errs = append(errs, errors.New("--manifests is required"))
		} else if err != nil {
			errs = append(errs, fmt.Errorf("--manifests: %w", err))
		} else if !info.IsDir() {
			errs = append(errs, fmt.Errorf("--manifests: %s is no directory", o.manifests))
		}
		if err := o.complete(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return o, fmt.Errorf("%w; --help teaches", errors.Join(errs...))
	}
	return o, nil
}

// complete fills in what the node itself knows.
func (o *options) complete() (err error) {
	if o.node.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--node-name: %w", err)
		}
		o.node.Name = strings.ToLower(name)
	}
	if len(o.node.Addresses) == 0 {
		if o.node.Addresses, err = nftables.PrimaryAddresses(0); err != nil {
			return fmt.Errorf("--node-address: %w", err)
		}
	}
	return nil
}

// parsePacket reads FROM and TO/PORT/PROTO, such as 10.244.0.5 10.96.0.10/80/tcp,
// and the link that it comes in by, if that is given.
func parsePacket(args []string) (proxyrules.Packet, error) {
	if len(args) != 2 && len(args) != 3 {
		return proxyrules.Packet{}, errors.New("--trace wants two words, such as 10.244.0.5 10.96.0.10/80/tcp, after all flags")
	}
	parts := strings.Split(args[1], "/")
	if len(parts) != 3 {
		return proxyrules.Packet{}, fmt.Errorf("--trace: %q is not ADDRESS/PORT/PROTOCOL, such as 10.96.0.10/80/tcp", args[1])
	}
	to := parts[0] + ":" + parts[1]
	if strings.Contains(parts[0], ":") {
		to = "[" + parts[0] + "]:" + parts[1]
	}
	packet, err := proxyrules.ParsePacket(args[0], to, parts[2])
	if err != nil {
		return packet, fmt.Errorf("--trace: %w", err)
	}
	if len(args) == 3 {
		packet.Interface = args[2]
	}
	return packet, nil
}

// list is a flag that may be repeated.
func list[T any](flags *flag.FlagSet, name, usage string, into *[]T, parse func(string) (T, error)) {
	flags.Func(name, usage, func(text string) error {
		value, err := parse(text)
		*into = append(*into, value)
		return err
	})
}

// newLogger writes lines.
func newLogger(out io.Writer, verbose bool) logr.Logger {
	verbosity := 0
	if verbose {
		verbosity = 4
	}
	return funcr.New(func(prefix, args string) {
		_, _ = fmt.Fprintln(out, time.Now().Format("15:04:05.000"), prefix, args)
	}, funcr.Options{Verbosity: verbosity})
}
