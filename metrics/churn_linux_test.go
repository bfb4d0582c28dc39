package metrics_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("Churn", func() {
	It("leaves nothing of a thousand containers that came and went", func() {
		t, ctx := newTree(), context.Background()
		m := t.running(64) // for all files of a few, or the hot ones of some
		before := openFiles()
		const waves, width = 20, 50
		for wave := range waves {
			list := []metrics.Target{podTarget, appTarget}
			var paths []string
			for i := range width {
				one := appTarget
				one.ID = fmt.Sprintf("w%d-%d", wave, i)
				one.Cgroup = "/kubepods/pod1/" + one.ID
				paths = append(paths, "cgroup"+one.Cgroup)
				Expect(os.Symlink("c1", t.dir+"/"+paths[i])).To(Succeed())
				list = append(list, one)
			}
			t.to.set(list...)
			t.clock.Step(time.Millisecond)
			_, err := m.Samples(ctx, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(m.Stats().Targets).To(Equal(2 + width))
			Expect(m.Stats().Descriptors).To(BeNumerically("<=", 64))
			for _, p := range paths {
				t.remove(p)
			}
		}
		t.to.set(podTarget, appTarget)
		t.clock.Step(time.Millisecond)
		_, err := m.Samples(ctx, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Stats().Targets).To(Equal(2))
		Expect(openFiles()).To(BeNumerically("<=", before+2))
		Expect(strings.Count(cadvisorText(m), "container_memory_rss{")).To(Equal(3)) // and the node
		s, err := m.Sample(ctx, appTarget.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(BeEmpty())
	})

	It("keeps nothing open where none may be kept, also of what lacks files or goes", func() {
		t, ctx := newTree(), context.Background()
		m := t.running(-1)
		t.clock.Step(time.Millisecond)
		_, err := m.Samples(ctx, 0) // Run keeps the roots, and what it asks for interfaces
		Expect(err).NotTo(HaveOccurred())
		before := openFiles()
		for _, remove := range []string{"", "cgroup/kubepods/pod1/c1/io.stat", "cgroup/kubepods/pod1/c1/memory.stat", "cgroup/kubepods/pod1/c1"} {
			if remove != "" {
				t.remove(remove)
			}
			for range 50 {
				t.clock.Step(time.Millisecond)
				_, err := m.Samples(ctx, 0)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(openFiles()).To(BeNumerically("<=", before), "after %q was removed", remove)
		}
		s, err := m.Sample(ctx, appTarget.Cgroup, time.Hour)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gone).To(BeTrue())
		Expect(figure(m, sidecarTarget.Cgroup, metrics.CPUUsage, time.Hour)).To(Equal(uint64(2000000000)))
	})
})
