package podlifecycle_test

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func (s *sim) randomPod(name string) *corev1.Pod {
	chance := func(one int) bool { return s.rng.IntN(one) == 0 }
	return newPod(name, func(p *corev1.Pod) {
		p.UID = types.UID("u" + strings.TrimPrefix(name, "pod"))
		grace := int64(s.rng.IntN(20))
		p.Spec.TerminationGracePeriodSeconds = &grace
		p.Spec.RestartPolicy = corev1.RestartPolicy(s.one("Always", "Always", "OnFailure", "Never"))
		p.Annotations = map[string]string{
			podlifecycle.AnnotationStartPolicy:   s.one("", "", podlifecycle.StartAllOrNothing),
			podlifecycle.AnnotationFailurePolicy: s.one("", "", podlifecycle.FailureReplacePod),
		}
		s.ranked(p)
		if chance(4) {
			limit := resource.MustParse("10Mi")
			p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		}
		s.node.takes(p.UID, s.rng.Int64N(400<<20))
		if chance(10) {
			limit := int64(20 + s.rng.IntN(600))
			p.Spec.ActiveDeadlineSeconds = &limit
		}
		for i := range s.rng.IntN(4) {
			c := container(fmt.Sprintf("init%d", i), s.one("init:1", "init:1", "late:1"))
			if chance(2) {
				c = sidecar(fmt.Sprintf("side%d", i), s.one("web:1", "flaky:1", "deaf:1"))
				s.addProbes(&c)
			}
			c.Image = s.image(name, c.Name, c.Image)
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		p.Spec.Containers = nil
		for i := range 1 + s.rng.IntN(3) {
			c := container(fmt.Sprintf("main%d", i), s.one("web:1", "web:1", "job:1", "flaky:1", "deaf:1", "crash:1", "broken:1"))
			c.Image = s.image(name, c.Name, c.Image)
			s.addProbes(&c)
			if chance(4) {
				exec := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}
				c.Lifecycle = &corev1.Lifecycle{PostStart: exec, PreStop: exec}
				if chance(2) {
					c.Lifecycle.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}
				}
			}
			if chance(6) {
				c.ImagePullPolicy = corev1.PullAlways
			}
			if chance(8) {
				own := corev1.ContainerRestartPolicy(s.one("Always", "OnFailure", "Never"))
				c.RestartPolicy = &own
				c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleAction(s.one("Restart", "RestartAllContainers")),
					ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1, 3}}}}
			}
			if chance(3) {
				c.Resources = s.size()
			}
			if i == 0 && s.ported(name) {
				c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	})
}

// ported tells whether pods of a name have the host port, which pods of one UID
// cannot come to have later.
func (s *sim) ported(name string) bool {
	has := s.rng.IntN(6) == 0
	if was, known := s.hostPorts[name]; known {
		return was
	}
	s.hostPorts[name] = has
	return has
}

// rank is where a pod comes from and how much it counts, "" and 0 being nothing.
type rank struct {
	from     string
	priority int32
}

// ranked gives a pod the rank of all pods of its name: those of one UID cannot come
// to have another.
func (s *sim) ranked(p *corev1.Pod) {
	r := rank{s.one("", "", "api", "file"), []int32{0, 0, 0, 0, 0, 0, -5, 100, 150, 2_000_001_000}[s.rng.IntN(10)]}
	if was, known := s.ranks[p.Name]; known {
		r = was
	}
	s.ranks[p.Name] = r
	if r.from != "" {
		p.Annotations[source.AnnotationSource] = r.from
	}
	if r.priority != 0 {
		p.Spec.Priority = &r.priority
	}
}

// size is Burstable, whatever comes out.
func (s *sim) size() corev1.ResourceRequirements {
	of := func(factor int64) corev1.ResourceList {
		return corev1.ResourceList{"cpu": *resource.NewMilliQuantity(factor*int64(50+s.rng.IntN(50)), resource.DecimalSI),
			"memory": *resource.NewQuantity(factor*int64(64+s.rng.IntN(64))<<20, resource.BinarySI)}
	}
	return corev1.ResourceRequirements{Requests: of(1), Limits: of(3)}
}

// restartsAll tells whether a container of the pod may have all restart.
func restartsAll(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		for _, rule := range pod.Spec.Containers[i].RestartPolicyRules {
			if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

func (s *sim) addProbes(c *corev1.Container) {
	if s.rng.IntN(3) == 0 {
		c.ReadinessProbe = execProbe("ready")
	}
	if s.rng.IntN(4) == 0 {
		c.LivenessProbe = execProbe("live")
		if s.rng.IntN(2) == 0 {
			grace := int64(s.rng.IntN(5))
			c.LivenessProbe.TerminationGracePeriodSeconds = &grace
		}
	}
	if s.rng.IntN(5) == 0 {
		c.StartupProbe = execProbe("up")
		c.StartupProbe.PeriodSeconds, c.StartupProbe.InitialDelaySeconds = 2, int32(s.rng.IntN(3))
	}
}

func simImages() []runtimetest.FakeImage {
	exit := func(after time.Duration, code int32) runtimetest.Program {
		return runtimetest.Program{Exit: &runtimetest.Exit{After: after, Code: code}}
	}
	few := func(failures uint32, then runtimetest.Program) func(runtimetest.Process) runtimetest.Program {
		return func(p runtimetest.Process) runtimetest.Program {
			if p.Attempt < failures {
				return exit(time.Second, 1)
			}
			return then
		}
	}
	return []runtimetest.FakeImage{
		{Ref: "web:1", PullTakes: time.Second}, {Ref: "web:2", PullTakes: 30 * time.Second},
		{Ref: "init:1", Program: exit(2*time.Second, 0)},
		{Ref: "late:1", Choose: few(2, exit(time.Second, 0))},
		{Ref: "job:1", Program: exit(90*time.Second, 0)},
		{Ref: "crash:1", Program: exit(7*time.Second, 3)},
		{Ref: "flaky:1", Choose: few(3, runtimetest.Program{})},
		{Ref: "deaf:1", Program: runtimetest.Program{IgnoreStop: true}},
		{Ref: "broken:1", Program: runtimetest.Program{StartError: "no such file"}},
	}
}

// crashing tells of programs that end, and again when they are restarted.
func crashing(image string) bool {
	return strings.HasSuffix(image, "-crash:1") || strings.HasSuffix(image, "-job:1") || strings.HasSuffix(image, "-broken:1")
}
