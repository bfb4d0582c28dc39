package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

const (
	// pluginWait is how long the plug-ins of a network may take for one sandbox.
	pluginWait = 2 * time.Minute
	// maxCNIConfig bounds a configuration, which goes into each record.
	maxCNIConfig = 1 << 20
)

// plugins make and take down the network of sandboxes with a cniRecord.
type plugins struct {
	net *network
	lib *libcni.CNIConfig
}

// cniRecord says what a sandbox's network was asked for with. The configuration
// is in the sandbox's record, because what is in ConfDir may be another when the
// sandbox ends, and libcni remembers only what was added whole.
type cniRecord struct {
	Network string `json:"network"`
	// Config has all plug-ins inline.
	Config json.RawMessage `json:"config"`

	// added: this process has waited for the plug-ins.
	added bool
}

func newPlugins(n *network) *plugins {
	quiet := &invoke.DefaultExec{RawExec: &invoke.RawExec{}, PluginDecoder: version.PluginDecoder{}}
	return &plugins{net: n, lib: libcni.NewCNIConfigWithCacheDir(n.cfg.CNI.BinDirs, n.cfg.CNI.CacheDir, quiet)}
}

// choose gives the network that counts now, or nil for the built-in one.
func (p *plugins) choose() (*cniRecord, error) {
	if p.net.cfg.CNI.ConfDir == "" {
		return nil, nil
	}
	files, err := libcni.ConfFiles(p.net.cfg.CNI.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("CNI configurations: %w", err)
	}
	if len(files) == 0 {
		return nil, nil
	}
	slices.Sort(files)
	rec, err := readCNIConfig(files[0])
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w", files[0], err)
	}
	return rec, nil
}

// readCNIConfig reads a list of plug-ins or, but in a *.conflist, one alone.
func readCNIConfig(file string) (*cniRecord, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCNIConfig {
		return nil, fmt.Errorf("is no regular file of at most %d bytes", maxCNIConfig)
	}
	var list *libcni.NetworkConfigList
	if filepath.Ext(file) == ".conflist" {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = readSinglePlugin(file)
	}
	if err != nil {
		return nil, err
	}
	return inline(list)
}

// readSinglePlugin reads {"cniVersion": "0.3.1", "name": "net", "type": "bridge", ...}.
func readSinglePlugin(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return &libcni.NetworkConfigList{
		Name: plugin.Network.Name, CNIVersion: plugin.Network.CNIVersion, Plugins: []*libcni.PluginConfig{plugin},
	}, nil
}

// inline makes the text of which list is read again.
func inline(list *libcni.NetworkConfigList) (*cniRecord, error) {
	if list.Name == "" || len(list.Plugins) == 0 {
		return nil, errors.New("has no name or no plug-ins")
	}
	var configs []json.RawMessage
	for _, plugin := range list.Plugins {
		configs = append(configs, plugin.Bytes)
	}
	config, err := json.Marshal(map[string]any{
		"cniVersion": list.CNIVersion, "name": list.Name, "plugins": configs, "loadOnlyInlinedPlugins": true,
	})
	return &cniRecord{Network: list.Name, Config: config}, err
}

func (c *cniRecord) list() (*libcni.NetworkConfigList, error) {
	return libcni.NetworkConfFromBytes(c.Config)
}

// check refuses what would fail when the pod is half made, or not at all: a
// plug-in that is not there, and ports that none would make.
func (p *plugins) check(c *cniRecord, spec runtimeiface.SandboxSpec) error {
	list, err := c.list()
	if err != nil {
		return fmt.Errorf("CNI network %s: %w", c.Network, err)
	}
	for _, plugin := range list.Plugins {
		for _, program := range []string{plugin.Network.Type, plugin.Network.IPAM.Type} {
			if program == "" {
				continue
			}
			if _, err := invoke.FindInPath(program, p.net.cfg.CNI.BinDirs); err != nil {
				return fmt.Errorf("CNI network %s: %w", c.Network, err)
			}
		}
	}
	maps := slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities["portMappings"] })
	if len(hostMappings(spec)) > 0 && !maps {
		return notSupported("PortMappings", "want a plug-in with the capability portMappings, and CNI network "+c.Network+" has none")
	}
	return nil
}

// add has the plug-ins make the network of a sandbox, after sysctls are set, and
// gives its addresses in the plug-ins' order.
func (p *plugins) add(rec *sandboxRecord, nsPath string, sysctls []string) ([]netip.Addr, error) {
	ns, err := os.Open(nsPath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	pod, err := enterPod(ns, sysctls)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	if err := loopbackUp(pod); err != nil {
		return nil, err
	}
	list, err := rec.CNI.list()
	if err != nil {
		return nil, fmt.Errorf("CNI network %s: %w", rec.CNI.Network, err)
	}
	var result types.Result
	rec.CNI.added = true
	err = p.run(func(ctx context.Context) (err error) {
		result, err = p.lib.AddNetworkList(ctx, list, runtimeConf(rec, nsPath))
		return err
	})
	if err != nil {
		return nil, cniError(rec.CNI.Network, err)
	}
	faultPoint("plug-ins added")
	ips, err := podIPs(result)
	if err != nil {
		return nil, fmt.Errorf("CNI network %s: %w", rec.CNI.Network, err)
	}
	return ips, nil
}

// del has the plug-ins take the network of a sandbox down. held is its network
// namespace, nil if that is gone.
func (p *plugins) del(rec *sandboxRecord, held *os.File) error {
	list, err := rec.CNI.list()
	if err != nil {
		return fmt.Errorf("CNI network %s: %w", rec.CNI.Network, err)
	}
	if !rec.CNI.added {
		if err := killPlugins(rec.ID); err != nil {
			return err
		}
	}
	nsPath := ""
	if held != nil {
		nsPath = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), held.Fd())
	}
	err = p.run(func(ctx context.Context) error { return p.lib.DelNetworkList(ctx, list, runtimeConf(rec, nsPath)) })
	if err != nil {
		return cniError(rec.CNI.Network, err)
	}
	faultPoint("plug-ins deleted")
	return nil
}

// run calls plug-ins in the node's network namespace.
func (p *plugins) run(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), pluginWait)
	defer cancel()
	return p.net.inHostNS(func() error { return f(ctx) })
}

// reap detaches what libcni remembers of sandboxes that are not known: those
// whose record was damaged.
func (p *plugins) reap(known func(id string) bool) (gone int, err error) {
	attachments, err := p.lib.GetCachedAttachments("")
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, a := range attachments {
		if known(a.ContainerID) {
			continue
		}
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err == nil {
			conf := &libcni.RuntimeConf{ContainerID: a.ContainerID, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}
			err = p.run(func(ctx context.Context) error { return p.lib.DelNetworkList(ctx, list, conf) })
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", a.ContainerID, cniError(a.Network, err)))
			continue
		}
		gone++
	}
	return gone, errors.Join(errs...)
}

// runtimeConf has the arguments that containerd v2.4 gives, as far as a
// SandboxSpec has them.
func runtimeConf(rec *sandboxRecord, nsPath string) *libcni.RuntimeConf {
	type mapping struct {
		HostPort      uint16 `json:"hostPort"`
		ContainerPort uint16 `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	mappings := []mapping{}
	for _, m := range hostMappings(rec.Spec) {
		out := mapping{HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: strings.ToLower(m.Protocol)}
		if m.HostIP.IsValid() {
			out.HostIP = m.HostIP.String()
		}
		mappings = append(mappings, out)
	}
	args := map[string]any{"io.kubernetes.cri.pod-annotations": rec.Spec.Annotations}
	if len(mappings) > 0 {
		args["portMappings"] = mappings
	}
	if dns := rec.Spec.DNS; dns != nil {
		args["dns"] = map[string][]string{"servers": dns.Servers, "searches": dns.Searches, "options": dns.Options}
	}
	return &libcni.RuntimeConf{
		ContainerID: rec.ID, NetNS: nsPath, IfName: podInterface, CapabilityArgs: args,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", rec.Spec.Namespace}, {"K8S_POD_NAME", rec.Spec.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", rec.ID}, {"K8S_POD_UID", rec.Spec.UID},
		},
	}
}

// podIPs gives the addresses of the pod's interface. Routes and DNS of a result
// are the plug-ins' own affair.
func podIPs(result types.Result) ([]netip.Addr, error) {
	res, err := types100.GetResult(result)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, config := range res.IPs {
		if i := config.Interface; i != nil && *i >= 0 && *i < len(res.Interfaces) {
			if link := res.Interfaces[*i]; link.Sandbox == "" || link.Name != podInterface {
				continue
			}
		}
		if ip, ok := netip.AddrFromSlice(config.Address.IP); ok {
			ips = append(ips, ip.Unmap())
		}
	}
	if len(ips) == 0 {
		return nil, errors.New("the plug-ins gave the pod no address")
	}
	return ips, nil
}

// cniError keeps the plug-in's text and says when to try again.
func cniError(name string, err error) error {
	var told *types.Error
	if errors.As(err, &told) && told.Code == types.ErrTryAgainLater || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: CNI network %s: %w", runtimeiface.ErrUnavailable, name, err)
	}
	return fmt.Errorf("CNI network %s: %w", name, err)
}

// killPlugins ends plug-ins that an agent before was killed over, and waits:
// what they would still take is to be given back.
func killPlugins(sandboxID string) error {
	mine := []byte("CNI_CONTAINERID=" + sandboxID)
	for wait := time.Millisecond; ; wait *= 2 {
		found := false
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			environ, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
			if slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mine) }) {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return nil
		}
		if wait > 2*time.Second {
			return fmt.Errorf("CNI plug-ins of sandbox %s do not die", sandboxID)
		}
		time.Sleep(wait)
	}
}
