package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/nodekit/nodekit/podlifecycle/env"
	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
)

// runSandbox makes the pod's sandbox.
func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, a Action) error {
	spec, err := w.sandboxSpec(pod, a.Attempt)
	if err != nil {
		return err
	}
	if _, err := w.m.config.Runtime.RunSandbox(ctx, spec); err != nil {
		return fmt.Errorf("run sandbox: %w", err)
	}
	return nil
}

func (w *worker) sandboxSpec(pod *corev1.Pod, attempt uint32) (runtimeiface.SandboxSpec, error) {
	hosts := w.m.config.Hosts
	hostname, _, err := hosts.Hostname(pod)
	if err != nil {
		return runtimeiface.SandboxSpec{}, fmt.Errorf("host name: %w", err)
	}
	dns, notes, err := hosts.DNS(pod)
	if err != nil {
		return runtimeiface.SandboxSpec{}, fmt.Errorf("dns: %w", err)
	}
	for _, note := range notes {
		w.log.Info("dns differs from what the pod asks", "note", note)
	}
	spec := runtimeiface.SandboxSpec{
		Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID), Attempt: attempt,
		Hostname: hostname, LogDirectory: w.m.logDir(pod), DNS: dns,
		Labels: map[string]string{}, Annotations: map[string]string{},
	}
	for k, v := range pod.Labels {
		spec.Labels[k] = v
	}
	for k, v := range pod.Annotations {
		spec.Annotations[k] = v
	}
	w.m.mark(spec.Labels, pod)
	spec.Annotations[AnnotationGrace] = strconv.FormatInt(int64(GracePeriod(pod)/time.Second), 10)
	if w.m.config.Cgroups != nil {
		spec.CgroupParent = w.m.config.QoS.PodCgroup(pod)
	}
	if pod.Spec.HostNetwork {
		spec.Network = runtimeiface.NamespaceHost
	}
	if pod.Spec.HostIPC {
		spec.IPC = runtimeiface.NamespaceHost
	}
	switch {
	case pod.Spec.HostPID:
		spec.PID = runtimeiface.NamespaceHost
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		spec.PID = runtimeiface.NamespacePod
	}
	if ownUsers(pod) {
		if err := w.mapUsers(&spec); err != nil {
			return spec, fmt.Errorf("user namespace: %w", err)
		}
	}
	spec.Privileged = slices.ContainsFunc(everyContainer(pod), privileged)
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		spec.Sysctls = map[string]string{}
		for _, s := range sc.Sysctls {
			spec.Sysctls[sysctl.NormalizeName(s.Name)] = s.Value
		}
	}
	if pod.Spec.RuntimeClassName != nil {
		spec.RuntimeHandler = *pod.Spec.RuntimeClassName
	}
	if !pod.Spec.HostNetwork {
		spec.PortMappings, err = portMappings(pod)
	}
	return spec, err
}

func portMappings(pod *corev1.Pod) ([]runtimeiface.PortMapping, error) {
	var list []runtimeiface.PortMapping
	for _, asked := range hostPorts(pod) {
		p := asked.port
		m := runtimeiface.PortMapping{Protocol: string(p.Protocol), ContainerPort: uint16(p.ContainerPort), HostPort: uint16(p.HostPort)}
		if p.HostIP != "" {
			addr, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, fmt.Errorf("%s: hostIP: %w", asked.path, err)
			}
			m.HostIP = addr
		}
		list = append(list, m)
	}
	return list, nil
}

// mark labels what belongs to a pod.
func (m *Manager) mark(labels map[string]string, pod *corev1.Pod) {
	labels[LabelPodName], labels[LabelPodNamespace], labels[LabelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	labels[LabelAgent] = m.config.NodeName
}

// create makes a container and starts it.
func (w *worker) create(ctx context.Context, pod *corev1.Pod, c *corev1.Container, a Action, sandbox runtimeiface.Sandbox, img imageState) (func(), error) {
	spec, err := w.containerSpec(ctx, pod, c, a, sandbox, img)
	if err != nil {
		return nil, &waitingError{"CreateContainerConfigError", true, fmt.Errorf("container %s%s: %w", c.Name, inFile(pod), err)}
	}
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	rt := w.m.config.Runtime
	id, err := rt.CreateContainer(ctx, a.ID, spec)
	if err != nil {
		var then func()
		if errors.Is(err, runtimeiface.ErrNotFound) {
			// The image may have been removed since it was looked for.
			then = func() { delete(w.images, a.Container) }
		}
		return then, &waitingError{"CreateContainerError", false, fmt.Errorf("create container: %w", err)}
	}
	if ctx.Err() != nil { // the pod may be about to end by now
		return nil, errCancelled
	}
	return nil, w.start(ctx, id)
}

// startAll makes the containers of a group, and starts them once all are made.
func (w *worker) startAll(ctx context.Context, pod *corev1.Pod, a Action, sandbox runtimeiface.Sandbox, images map[string]imageState) (func(), error) {
	group := make([]runtimeiface.ContainerSpec, len(a.Group))
	for i, one := range a.Group {
		c := containerOf(pod, one.Container)
		spec, err := w.containerSpec(ctx, pod, c, one, sandbox, images[one.Container])
		if err != nil {
			return nil, &waitingError{"CreateContainerConfigError", true, fmt.Errorf("container %s%s: %w", c.Name, inFile(pod), err)}
		}
		group[i] = spec
	}
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	rt := w.m.config.Runtime
	_, err := rt.RunContainers(ctx, a.ID, group)
	if err == nil {
		return nil, nil
	}
	list, listErr := rt.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: a.ID, State: runtimeiface.ContainerExited})
	for _, got := range list {
		if listErr == nil && slices.ContainsFunc(group, func(s runtimeiface.ContainerSpec) bool { return s.Name == got.Name && s.Attempt == got.Attempt }) {
			return nil, fmt.Errorf("start containers: %w: %w", errExited, err)
		}
	}
	var then func()
	if errors.Is(err, runtimeiface.ErrNotFound) {
		// An image may have been removed since it was looked for.
		then = func() {
			for _, one := range a.Group {
				delete(w.images, one.Container)
			}
		}
	}
	return then, &waitingError{"CreateContainerError", false, fmt.Errorf("start containers together: %w", err)}
}

// errExited: the container has come to its end, for the restart policy to judge.
var errExited = errors.New("it did not run")

// start starts a container. A program that cannot be run is an
// exit and no fault.
func (w *worker) start(ctx context.Context, id string) error {
	rt := w.m.config.Runtime
	err := rt.StartContainer(ctx, id)
	if err == nil {
		return nil
	}
	if got, statusErr := rt.ContainerStatus(ctx, id); statusErr == nil && got.State == runtimeiface.ContainerExited {
		return fmt.Errorf("start container: %w: %w", errExited, err)
	}
	return &waitingError{"RunContainerError", false, fmt.Errorf("start container: %w", err)}
}

func (w *worker) containerSpec(ctx context.Context, pod *corev1.Pod, c *corev1.Container, a Action, sandbox runtimeiface.Sandbox, img imageState) (runtimeiface.ContainerSpec, error) {
	cfg := &w.m.config
	set := w.m.objects()
	informed := w.informed(pod, sandbox)
	environ, err := env.Resolve(env.Input{Pod: informed, Container: c, Objects: set, Services: set.Services, Allocatable: cfg.Allocatable,
		File: func(volume, path string) ([]byte, error) { return cfg.Volumes.File(pod, volume, path) }})
	if err != nil {
		return runtimeiface.ContainerSpec{}, err
	}
	sec, err := cfg.Security.Resolve(pod, c, img.user)
	if err != nil {
		return runtimeiface.ContainerSpec{}, err
	}
	mounts, err := cfg.Volumes.Mounts(ctx, informed, c, environ)
	if err != nil {
		return runtimeiface.ContainerSpec{}, err
	}
	if err := mountImages(pod, mounts, img); err != nil {
		return runtimeiface.ContainerSpec{}, err
	}
	spec := runtimeiface.ContainerSpec{
		Name: c.Name, Attempt: a.Attempt, Image: a.Image,
		Command: env.Expand(c.Command, environ), Args: env.Expand(c.Args, environ), Env: environ,
		WorkingDir: c.WorkingDir, Mounts: mounts,
		LogPath: filepath.Join(c.Name, strconv.FormatUint(uint64(a.Attempt), 10)+".log"),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		Security: sec, Resources: cfg.QoS.ContainerResources(pod, c), OOMScoreAdj: cfg.QoS.OOMScoreAdj(pod, c),
		Labels: map[string]string{LabelContainerName: c.Name},
		Annotations: map[string]string{
			AnnotationHash: ContainerHash(c), AnnotationImage: c.Image, AnnotationLevel: strconv.Itoa(a.Level),
		},
	}
	w.m.mark(spec.Labels, pod)
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		spec.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	if err := w.joinTarget(&spec, pod, a.ID); err != nil {
		return spec, err
	}
	if err := annotateSize(&spec, pod, c); err != nil {
		return spec, err
	}
	if err := w.addHosts(&spec, informed); err != nil {
		return spec, err
	}
	return spec, w.addMessageFile(&spec, pod, c, a.Attempt)
}

// mountImages puts the IDs of images in the place of the references that the
// volumes' mounts of Type "image" have.
func mountImages(pod *corev1.Pod, mounts []specs.Mount, img imageState) error {
	for i := range mounts {
		if mounts[i].Type != "image" {
			continue
		}
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Image != nil && v.Image.Reference == mounts[i].Source && img.volumes[v.Name] != ""
		})
		if at < 0 {
			return fmt.Errorf("image %s of a volume: %w", mounts[i].Source, runtimeiface.ErrNotFound)
		}
		mounts[i].Source = img.volumes[pod.Spec.Volumes[at].Name]
	}
	return nil
}

// informed is the pod with the addresses that the environment may ask for.
func (w *worker) informed(pod *corev1.Pod, sandbox runtimeiface.Sandbox) *corev1.Pod {
	out := *pod
	out.Spec.NodeName = w.m.config.NodeName
	out.Status = corev1.PodStatus{}
	ips := sandbox.IPs
	if pod.Spec.HostNetwork {
		ips = w.m.config.NodeIPs
	}
	for i, ip := range ips {
		if i == 0 {
			out.Status.PodIP = ip.String()
		}
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	for i, ip := range w.m.config.NodeIPs {
		if i == 0 {
			out.Status.HostIP = ip.String()
		}
		out.Status.HostIPs = append(out.Status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	return &out
}

func mountsAt(mounts []specs.Mount, path string) bool {
	for _, m := range mounts {
		if filepath.Clean(m.Destination) == path {
			return true
		}
	}
	return false
}

// addHosts mounts the pod's /etc/hosts, one file for all its containers.
func (w *worker) addHosts(spec *runtimeiface.ContainerSpec, pod *corev1.Pod) error {
	if mountsAt(spec.Mounts, "/etc/hosts") {
		return nil
	}
	var ips []string
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	content, err := w.m.config.Hosts.HostsFile(pod, ips)
	if err != nil {
		return fmt.Errorf("hosts file: %w", err)
	}
	path := filepath.Join(w.m.podDir(pod.UID), "etc-hosts")
	w.hostsMu.Lock()
	err = hostfiles.WriteHosts(path, content)
	w.hostsMu.Unlock()
	if err != nil {
		return fmt.Errorf("hosts file: %w", err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: path, Options: []string{"rbind", "rprivate", "rw"}})
	return nil
}

// addMessageFile mounts an empty file where the program may leave its last words.
func (w *worker) addMessageFile(spec *runtimeiface.ContainerSpec, pod *corev1.Pod, c *corev1.Container, attempt uint32) error {
	inside := c.TerminationMessagePath
	if inside == "" {
		inside = corev1.TerminationMessagePathDefault
	}
	spec.Annotations[AnnotationMessagePolicy] = string(c.TerminationMessagePolicy)
	if mountsAt(spec.Mounts, filepath.Clean(inside)) {
		return nil
	}
	dir := filepath.Join(w.m.podDir(pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("termination message: %w", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%d.message", attempt))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("termination message: %w", err)
	}
	// The program may be anybody, whatever the umask says.
	if err := errors.Join(file.Chmod(0o666), file.Close()); err != nil {
		return fmt.Errorf("termination message: %w", err)
	}
	spec.Annotations[AnnotationMessagePath] = path
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: inside, Type: "bind", Source: path, Options: []string{"rbind", "rprivate", "rw"}})
	// Messages older than the one before this are in the status already.
	if attempt >= 2 {
		_ = os.Remove(filepath.Join(dir, fmt.Sprintf("%d.message", attempt-2)))
	}
	return nil
}

// inFile names the manifest in errors, if the pod comes from one.
func inFile(pod *corev1.Pod) string {
	if file := pod.Annotations[source.AnnotationFile]; file != "" {
		return fmt.Sprintf(" of pod %s/%s in %s", pod.Namespace, pod.Name, file)
	}
	return fmt.Sprintf(" of pod %s/%s", pod.Namespace, pod.Name)
}

func privileged(c corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}
