package shutdown_test

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/shutdown"
)

func pod(name string, priority ...int32) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if len(priority) > 0 {
		p.Spec.Priority = &priority[0]
	}
	return p
}

func show(groups []shutdown.Group) []string {
	var out []string
	for _, g := range groups {
		text := fmt.Sprint(g.Priority, " ", g.Grace, ":")
		for _, p := range g.Pods {
			text += " " + p.Name
		}
		out = append(out, text)
	}
	return out
}

func TestPeriods(t *testing.T) {
	g := NewWithT(t)
	periods, err := shutdown.Periods(30*time.Second, 10*time.Second)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(periods).To(Equal([]shutdown.Period{{Priority: 0, Grace: 20 * time.Second}, {Priority: 2_000_000_000, Grace: 10 * time.Second}}))
	g.Expect(shutdown.Total(periods)).To(Equal(30 * time.Second))
	g.Expect(shutdown.Periods(0, 0)).To(BeEmpty())
	for _, bad := range [][2]time.Duration{{time.Second, 2 * time.Second}, {-1, 0}, {time.Second, -1}, {0, 1}} {
		_, err := shutdown.Periods(bad[0], bad[1])
		g.Expect(err).To(HaveOccurred(), fmt.Sprint(bad))
	}
	g.Expect(shutdown.Check(periods)).To(Succeed())
	g.Expect(shutdown.Check([]shutdown.Period{{1, 1}, {1, -1}})).To(MatchError(And(ContainSubstring("second"), ContainSubstring("negative"))))
}

func TestGroups(t *testing.T) {
	g := NewWithT(t)
	pods := []*corev1.Pod{pod("none"), pod("low", -5), pod("ten", 10), pod("eleven", 11), pod("top", 2_000_001_000), pod("just-below", 9)}
	periods := []shutdown.Period{{10, 2}, {0, 1}, {1000, 3}}
	g.Expect(show(shutdown.Groups(periods, pods))).To(Equal([]string{"0 1ns: none low just-below", "10 2ns: ten eleven", "1000 3ns: top"}))
	g.Expect(periods[0].Priority).To(BeEquivalentTo(10), "the argument is not changed")
	g.Expect(show(shutdown.Groups(periods[2:], pods[:1]))).To(Equal([]string{"1000 3ns: none"}))
	g.Expect(shutdown.Groups(nil, pods)).To(BeEmpty())
}

func ExampleGroups() {
	critical := int32(2_000_001_000)
	periods, _ := shutdown.Periods(30*time.Second, 10*time.Second)
	for _, group := range shutdown.Groups(periods, []*corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "dns"}, Spec: corev1.PodSpec{Priority: &critical}},
		{ObjectMeta: metav1.ObjectMeta{Name: "web"}},
	}) {
		fmt.Println(group.Pods[0].Name, group.Grace)
	}
	// Output:
	// web 20s
	// dns 10s
}
