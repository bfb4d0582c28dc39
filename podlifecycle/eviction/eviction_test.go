package eviction_test

import (
	"slices"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	mi = 1 << 20
	gi = 1 << 30
)

func policy(t testing.TB, config eviction.Config) *eviction.Policy {
	t.Helper()
	p, err := eviction.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func reading(signal eviction.Signal, available, capacity int64) eviction.Reading {
	return eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{signal: {Available: available, Capacity: capacity}}}
}

func newPod(name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
	for _, edit := range edits {
		edit(pod)
	}
	return pod
}

func requests(name corev1.ResourceName, amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(amount)}
	}
}

func priority(value int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &value }
}

func static(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }

func using(pod *corev1.Pod, memory int64) eviction.Pod {
	return eviction.Pod{Pod: pod, Usage: &eviction.Usage{Memory: memory, Containers: []eviction.ContainerUsage{{Name: "app", Memory: memory}}}}
}

func TestParse(t *testing.T) {
	g := gomega.NewWithT(t)
	got, err := eviction.Parse(
		map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "15%", "nodefs.inodesFree": "5%", "imagefs.inodesFree": "5%", "pid.available": "0%"},
		map[string]string{"memory.available": "1.5Gi"}, map[string]string{"memory.available": "1m30s"}, map[string]string{"memory.available": "0", "nodefs.available": "2%"})
	g.Expect(err).NotTo(gomega.HaveOccurred())
	want := eviction.Defaults()
	want[1].Reclaim = eviction.Value{Part: 0.02}
	want = append(want, eviction.Threshold{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: 1536 * mi}, Grace: 90 * time.Second})
	g.Expect(got).To(gomega.ConsistOf(want))
	_, err = eviction.Parse(map[string]string{"memory.free": "1", "nodefs.available": "110%", "imagefs.available": "-1", "pid.available": "0"},
		map[string]string{"nodefs.available": "1Gi", "memory.available": "1Gi"}, map[string]string{"memory.available": "-1s", "x": "1s"}, map[string]string{"nodefs.available": "NaN%"})
	for _, word := range []string{"hard[memory.free]: unknown signal", "hard[nodefs.available]", "hard[imagefs.available]", "hard[pid.available]",
		"soft[nodefs.available]: a soft threshold needs", "soft[memory.available]: grace", "soft grace period[x]", "minimum reclaim[nodefs.available]"} {
		g.Expect(err).To(gomega.MatchError(gomega.ContainSubstring(word)))
	}
}

func TestConfig(t *testing.T) {
	g := gomega.NewWithT(t)
	_, err := eviction.New(eviction.Config{Thresholds: []eviction.Threshold{{Signal: "x", Below: eviction.Value{Amount: 1}}, {Signal: eviction.PIDAvailable}}, MaxGrace: -1})
	for _, word := range []string{"thresholds[0]: unknown signal", "thresholds[1]: below", "MaxGrace"} {
		g.Expect(err).To(gomega.MatchError(gomega.ContainSubstring(word)))
	}
}

func TestHardThresholds(t *testing.T) {
	for name, test := range map[string]struct {
		signal              eviction.Signal
		available, capacity int64
		condition           corev1.NodeConditionType
		text                string
	}{
		"memory enough":    {eviction.MemoryAvailable, 100 * mi, 4 * gi, "", ""},
		"memory":           {eviction.MemoryAvailable, 100*mi - 1024, 4 * gi, corev1.NodeMemoryPressure, "memory.available is 102399Ki, below 100Mi"},
		"nodefs enough":    {eviction.NodeFSAvailable, 11 * gi, 100 * gi, "", ""},
		"nodefs":           {eviction.NodeFSAvailable, 9 * gi, 100 * gi, corev1.NodeDiskPressure, "nodefs.available is 9Gi, below 10737418400"},
		"imagefs":          {eviction.ImageFSAvailable, 14 * gi, 100 * gi, corev1.NodeDiskPressure, "imagefs.available is 14Gi"},
		"inodes":           {eviction.NodeFSInodes, 49_000, 1_000_000, corev1.NodeDiskPressure, "nodefs.inodesFree is 49k, below 50k"},
		"imagefs inodes":   {eviction.ImageFSInodes, 0, 1_000_000, corev1.NodeDiskPressure, "imagefs.inodesFree is 0"},
		"no pid by itself": {eviction.PIDAvailable, 0, 1000, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			a := policy(t, eviction.Config{}).Assess(eviction.State{}, reading(test.signal, test.available, test.capacity), start)
			if test.condition == "" {
				g.Expect(a.Conditions).To(gomega.BeEmpty())
				g.Expect(a.Starved).To(gomega.BeNil())
				g.Expect(a.Next).To(gomega.BeZero())
				return
			}
			g.Expect(a.Conditions).To(gomega.Equal([]corev1.NodeConditionType{test.condition}))
			g.Expect(a.Starved).NotTo(gomega.BeNil())
			g.Expect(a.Starved.String()).To(gomega.ContainSubstring(test.text))
			g.Expect(a.Next).To(gomega.Equal(start.Add(5 * time.Minute)))
		})
	}
}

// A soft threshold waits for its grace, and begins anew when it was not met once.
func TestSoftThreshold(t *testing.T) {
	g := gomega.NewWithT(t)
	p := policy(t, eviction.Config{Thresholds: []eviction.Threshold{{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: gi}, Grace: time.Minute}}})
	low, fine := reading(eviction.MemoryAvailable, gi-1, 4*gi), reading(eviction.MemoryAvailable, gi, 4*gi)
	state, now := eviction.State{}, start
	look := func(r eviction.Reading, after time.Duration) eviction.Assessment {
		now = now.Add(after)
		a := p.Assess(state, r, now)
		state = a.State
		return a
	}
	a := look(low, 0)
	g.Expect(a.Starved).To(gomega.BeNil())
	g.Expect(a.Conditions).To(gomega.HaveLen(1), "the condition does not wait for the grace")
	g.Expect(a.Next).To(gomega.Equal(now.Add(time.Minute)))
	g.Expect(look(low, 59*time.Second).Starved).To(gomega.BeNil())
	look(fine, 500*time.Millisecond)
	g.Expect(look(low, 500*time.Millisecond).Starved).To(gomega.BeNil())
	g.Expect(look(low, 59*time.Second).Starved).To(gomega.BeNil())
	g.Expect(look(low, time.Second).Starved).NotTo(gomega.BeNil())
}

// Once met, a threshold stays so until its minimum reclaim is there too.
func TestMinimumReclaim(t *testing.T) {
	g := gomega.NewWithT(t)
	p := policy(t, eviction.Config{Thresholds: []eviction.Threshold{{Signal: eviction.NodeFSAvailable, Below: eviction.Value{Amount: gi}, Reclaim: eviction.Value{Part: 0.1}}}})
	at := func(available int64) eviction.Reading { return reading(eviction.NodeFSAvailable, available, 10*gi) }
	g.Expect(p.Assess(eviction.State{}, at(3*gi/2), start).Starved).To(gomega.BeNil())
	g.Expect(p.Relieved(at(3*gi/2))).To(gomega.BeFalse(), "garbage must bring the reclaim as well")
	g.Expect(p.Relieved(at(3 * gi))).To(gomega.BeTrue())
	a := p.Assess(eviction.State{}, at(gi/2), start)
	g.Expect(a.Starved).NotTo(gomega.BeNil())
	a = p.Assess(a.State, at(3*gi/2), start.Add(10*time.Second))
	g.Expect(a.Starved).NotTo(gomega.BeNil())
	a = p.Assess(a.State, at(21*gi/10), start.Add(20*time.Second))
	g.Expect(a.Starved).To(gomega.BeNil())
	g.Expect(p.Assess(a.State, at(3*gi/2), start.Add(30*time.Second)).Starved).To(gomega.BeNil())
}

func TestPressureTransition(t *testing.T) {
	g := gomega.NewWithT(t)
	p := policy(t, eviction.Config{PressureTransition: time.Minute})
	a := p.Assess(eviction.State{}, reading(eviction.MemoryAvailable, 0, gi), start)
	a = p.Assess(a.State, reading(eviction.MemoryAvailable, gi, gi), start.Add(59*time.Second))
	g.Expect(a.Conditions).To(gomega.HaveLen(1))
	g.Expect(a.Next).To(gomega.Equal(start.Add(time.Minute)))
	a = p.Assess(a.State, eviction.Reading{}, start.Add(time.Minute))
	g.Expect(a.Conditions).To(gomega.BeEmpty())
	g.Expect(a.Next).To(gomega.BeZero())
}

// Memory comes first, and no reading counts twice.
func TestStarved(t *testing.T) {
	g := gomega.NewWithT(t)
	thresholds := slices.Clone(eviction.Defaults())
	slices.Reverse(thresholds)
	p := policy(t, eviction.Config{Thresholds: thresholds})
	r := reading(eviction.MemoryAvailable, 1, gi)
	r.Signals[eviction.ImageFSAvailable] = eviction.Observation{Available: 1, Capacity: gi, Time: start}
	a := p.Assess(eviction.State{}, r, start)
	g.Expect(a.Starved.Signal).To(gomega.Equal(eviction.MemoryAvailable))
	g.Expect(a.Conditions).To(gomega.Equal([]corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodeMemoryPressure}))
	delete(r.Signals, eviction.MemoryAvailable)
	g.Expect(p.Assess(a.State, r, start.Add(time.Second)).Starved).To(gomega.BeNil(), "the same reading")
	r.Signals[eviction.ImageFSAvailable] = eviction.Observation{Available: 1, Capacity: gi, Time: start.Add(time.Second)}
	g.Expect(p.Assess(a.State, r, start.Add(time.Second)).Starved.Signal).To(gomega.Equal(eviction.ImageFSAvailable))
}

func starved(t testing.TB, signal eviction.Signal) eviction.Starved {
	t.Helper()
	p := policy(t, eviction.Config{Thresholds: append(eviction.Defaults(), eviction.Threshold{Signal: eviction.PIDAvailable, Below: eviction.Value{Part: 0.1}})})
	a := p.Assess(eviction.State{}, reading(signal, 1024, 100*gi), start)
	if a.Starved == nil {
		t.Fatalf("not short of %s", signal)
	}
	return *a.Starved
}

func TestOrder(t *testing.T) {
	disk := func(pod *corev1.Pod, root, logs, volume int64) eviction.Pod {
		return eviction.Pod{Pod: pod, Usage: &eviction.Usage{
			Containers: []eviction.ContainerUsage{{Name: "app", RootFS: eviction.Disk{Bytes: root, Inodes: root / mi}, Logs: eviction.Disk{Bytes: logs, Inodes: 1}}},
			Volumes:    map[string]eviction.Disk{"v": {Bytes: volume, Inodes: volume / mi}}}}
	}
	processes := func(pod *corev1.Pod, n int64) eviction.Pod {
		return eviction.Pod{Pod: pod, Usage: &eviction.Usage{Processes: n}}
	}
	memory, storage := corev1.ResourceMemory, corev1.ResourceEphemeralStorage
	for name, test := range map[string]struct {
		signal    eviction.Signal
		dedicated bool
		pods      []eviction.Pod
		want      string
		spared    int
	}{
		"over its request before lower priority": {eviction.MemoryAvailable, false, []eviction.Pod{
			using(newPod("small", priority(-1), requests(memory, "1Gi")), gi), using(newPod("over", priority(9), requests(memory, "1Mi")), 2*mi)}, "over", 0},
		"lower priority before the larger": {eviction.MemoryAvailable, false, []eviction.Pod{
			using(newPod("large", priority(1)), gi), using(newPod("low"), mi)}, "low", 0},
		"the most above its request": {eviction.MemoryAvailable, false, []eviction.Pod{
			using(newPod("large", requests(memory, "900Mi")), gi), using(newPod("above", requests(memory, "100Mi")), 300*mi)}, "above", 0},
		"not known before all":   {eviction.MemoryAvailable, false, []eviction.Pod{using(newPod("a"), gi), {Pod: newPod("b", priority(5))}}, "b", 0},
		"equals by name":         {eviction.MemoryAvailable, false, []eviction.Pod{using(newPod("b"), gi), using(newPod("a"), gi)}, "a", 0},
		"critical ones are left": {eviction.MemoryAvailable, false, []eviction.Pod{using(newPod("a", static), 9*gi), using(newPod("b", requests(memory, "1Gi")), mi)}, "b", 1},
		"only critical ones":     {eviction.MemoryAvailable, false, []eviction.Pod{using(newPod("a", static), gi), using(newPod("b", priority(2_000_000_000)), gi)}, "", 2},
		"nobody":                 {eviction.MemoryAvailable, false, nil, "", 0},
		"disk: all counts":       {eviction.NodeFSAvailable, false, []eviction.Pod{disk(newPod("a"), 3*mi, mi, mi), disk(newPod("b"), 0, 0, 4*mi)}, "a", 0},
		"disk: request": {eviction.NodeFSAvailable, false, []eviction.Pod{disk(newPod("a", requests(storage, "10Mi")), 3*mi, mi, mi),
			disk(newPod("b", requests(storage, "1Mi"), priority(5)), 0, 0, 4*mi)}, "b", 0},
		"two disks: nodefs":   {eviction.NodeFSAvailable, true, []eviction.Pod{disk(newPod("a"), 9*mi, mi, 0), disk(newPod("b"), 0, 0, 2*mi)}, "b", 0},
		"two disks: imagefs":  {eviction.ImageFSAvailable, true, []eviction.Pod{disk(newPod("a"), mi, 9*mi, 0), disk(newPod("b"), 2*mi, 0, 0)}, "b", 0},
		"inodes":              {eviction.NodeFSInodes, false, []eviction.Pod{disk(newPod("a"), 3*mi, 0, 0), disk(newPod("b"), 0, 0, 9*mi)}, "b", 0},
		"processes: priority": {eviction.PIDAvailable, false, []eviction.Pod{processes(newPod("a", priority(1)), 500), processes(newPod("b"), 2)}, "b", 0},
		"processes: number":   {eviction.PIDAvailable, false, []eviction.Pod{processes(newPod("a"), 5), processes(newPod("b"), 7)}, "b", 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			victim, spared := policy(t, eviction.Config{}).Pick(starved(t, test.signal), test.pods, test.dedicated)
			got := ""
			if victim != nil {
				got = victim.Pod.Name
				g.Expect(victim.Signal).To(gomega.Equal(string(test.signal)))
				g.Expect(victim.Grace).To(gomega.Equal(time.Second))
				g.Expect(victim.Disruption).To(gomega.Equal(victim.Message))
			}
			g.Expect(got).To(gomega.Equal(test.want))
			g.Expect(spared).To(gomega.HaveLen(test.spared))
		})
	}
}

func TestMessages(t *testing.T) {
	g := gomega.NewWithT(t)
	p := policy(t, eviction.Config{})
	message := func(signal eviction.Signal, pod eviction.Pod) string {
		victim, _ := p.Pick(starved(t, signal), []eviction.Pod{pod}, false)
		return victim.Message
	}
	g.Expect(message(eviction.MemoryAvailable, using(newPod("a", requests(corev1.ResourceMemory, "64Mi")), 100*mi))).To(gomega.Equal(
		"The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Ki. Container app was using 100Mi, request is 64Mi, has larger consumption of memory. "))
	g.Expect(message(eviction.MemoryAvailable, using(newPod("a", requests(corev1.ResourceMemory, "1Gi")), 100*mi))).To(gomega.Equal(
		"The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Ki. "))
	own := using(newPod("a", func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}}
	}), 2*mi)
	g.Expect(message(eviction.MemoryAvailable, own)).To(gomega.ContainSubstring("Pod a was using 2Mi, request is 1Mi, has larger consumption of memory. Container app was using 2Mi, request is 0,"))
	disk := eviction.Pod{Pod: newPod("a"), Usage: &eviction.Usage{Containers: []eviction.ContainerUsage{{Name: "app", RootFS: eviction.Disk{Bytes: mi}, Logs: eviction.Disk{Bytes: mi}}}}}
	g.Expect(message(eviction.ImageFSAvailable, disk)).To(gomega.Equal("The node was low on resource: ephemeral-storage. Threshold quantity: 16106128000, available: 1Ki. " +
		"Container app was using 2Mi, request is 0, has larger consumption of ephemeral-storage. "))
	g.Expect(message(eviction.NodeFSInodes, disk)).To(gomega.HavePrefix("The node was low on resource: inodes. "))
	g.Expect(message(eviction.PIDAvailable, eviction.Pod{Pod: newPod("a")})).To(gomega.HaveSuffix(", available: 1024. "))
}

func TestGraceOfSoftThreshold(t *testing.T) {
	seconds := int64(20)
	pod := newPod("a")
	s := starved(t, eviction.MemoryAvailable)
	s.Grace = time.Minute
	for max, want := range map[time.Duration]time.Duration{0: time.Second, 10 * time.Second: 10 * time.Second, time.Minute: 20 * time.Second} {
		pod.Spec.TerminationGracePeriodSeconds = &seconds
		victim, _ := policy(t, eviction.Config{MaxGrace: max}).Pick(s, []eviction.Pod{{Pod: pod}}, false)
		if victim.Grace != want {
			t.Errorf("at most %v: %v, want %v", max, victim.Grace, want)
		}
	}
}

func TestLimits(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	limit := func(amount string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(amount)}}
	}
	size := resource.MustParse("10Mi")
	volume := func(medium corev1.StorageMedium) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium, SizeLimit: &size}}}}
		}
	}
	two := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = limit("10Mi")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "other"})
	}
	side := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "side", RestartPolicy: &always, Resources: limit("5Mi")}, {Name: "init", Resources: limit("5Mi")}}
		p.Spec.Containers[0].Resources = limit("90Mi")
	}
	used := func(volume int64, containers ...eviction.ContainerUsage) *eviction.Usage {
		return &eviction.Usage{Volumes: map[string]eviction.Disk{"cache": {Bytes: volume}}, Containers: containers}
	}
	of := func(name string, root, logs int64) eviction.ContainerUsage {
		return eviction.ContainerUsage{Name: name, RootFS: eviction.Disk{Bytes: root}, Logs: eviction.Disk{Bytes: logs}}
	}
	for name, test := range map[string]struct {
		pod       *corev1.Pod
		usage     *eviction.Usage
		dedicated bool
		want      string
		paths     int
	}{
		"at the limit":        {newPod("a", volume("")), used(10 * mi), false, "", 1},
		"volume":              {newPod("a", volume("")), used(10*mi + 1), false, `Usage of EmptyDir volume "cache" exceeds the limit "10Mi". `, 1},
		"in memory":           {newPod("a", volume(corev1.StorageMediumMemory)), used(11 * mi), false, "", 0},
		"not known":           {newPod("a", volume("")), nil, false, "", 1},
		"critical":            {newPod("a", volume(""), static), used(11 * mi), false, "", 1},
		"container":           {newPod("a", two, func(p *corev1.Pod) { p.Spec.Containers[1].Resources = limit("90Mi") }), used(0, of("app", 6*mi, 6*mi)), false, `Container app exceeded its local ephemeral storage limit "10Mi". `, 2},
		"container, logs":     {newPod("a", two, func(p *corev1.Pod) { p.Spec.Containers[1].Resources = limit("90Mi") }), used(0, of("app", 6*mi, 6*mi)), true, "", 2},
		"pod, by all of them": {newPod("a", two), used(4*mi, of("app", mi, mi), of("other", 5*mi, 0)), false, "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ", 1},
		"sidecar":             {newPod("a", side), used(0, of("side", 6*mi, 0)), false, `Container side exceeded its local ephemeral storage limit "5Mi". `, 3},
		"init container":      {newPod("a", side), used(0, of("init", 6*mi, 0)), false, "", 3},
		"nothing limited":     {newPod("a"), used(99*gi, of("app", gi, gi)), false, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			victims := policy(t, eviction.Config{}).OverLimit([]eviction.Pod{{Pod: test.pod, Usage: test.usage}}, test.dedicated)
			got := ""
			if len(victims) > 0 {
				got = victims[0].Message
				g.Expect(victims[0].Disruption).To(gomega.BeEmpty())
				g.Expect(victims[0].Grace).To(gomega.Equal(time.Second))
			}
			g.Expect(got).To(gomega.Equal(test.want))
			g.Expect(eviction.Limits(test.pod)).To(gomega.HaveLen(test.paths))
		})
	}
}

func TestRefuse(t *testing.T) {
	memory, disk, pid := corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure
	tolerates := func(ts ...corev1.Toleration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Tolerations = ts }
	}
	for name, test := range map[string]struct {
		conditions []corev1.NodeConditionType
		pod        *corev1.Pod
		want       string
	}{
		"all is well":        {nil, newPod("a"), ""},
		"best effort":        {[]corev1.NodeConditionType{memory}, newPod("a"), "The node had condition: [MemoryPressure]. "},
		"burstable":          {[]corev1.NodeConditionType{memory}, newPod("a", requests(corev1.ResourceCPU, "1m")), ""},
		"critical":           {[]corev1.NodeConditionType{disk, memory}, newPod("a", static), ""},
		"disk":               {[]corev1.NodeConditionType{disk}, newPod("a", requests(corev1.ResourceCPU, "1m")), "The node had condition: [DiskPressure]. "},
		"processes":          {[]corev1.NodeConditionType{pid}, newPod("a", requests(corev1.ResourceCPU, "1m")), "The node had condition: [PIDPressure]. "},
		"both":               {[]corev1.NodeConditionType{disk, memory}, newPod("a", tolerates(corev1.Toleration{Operator: corev1.TolerationOpExists})), "The node had condition: [DiskPressure MemoryPressure]. "},
		"tolerates all":      {[]corev1.NodeConditionType{memory}, newPod("a", tolerates(corev1.Toleration{Operator: corev1.TolerationOpExists})), ""},
		"tolerates it":       {[]corev1.NodeConditionType{memory}, newPod("a", tolerates(corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule})), ""},
		"tolerates no other": {[]corev1.NodeConditionType{memory}, newPod("a", tolerates(corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists})), "The node had condition: [MemoryPressure]. "},
	} {
		t.Run(name, func(t *testing.T) {
			g := gomega.NewWithT(t)
			reason, message := policy(t, eviction.Config{}).Refuse(test.conditions, test.pod)
			g.Expect(message).To(gomega.Equal(test.want))
			g.Expect(reason == eviction.Reason).To(gomega.Equal(test.want != ""))
		})
	}
}
