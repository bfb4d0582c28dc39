package burden_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/burden"
)

func TestBurden(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "metrics/burden")
}

type fixed []metrics.Target

func (f fixed) Targets(context.Context) ([]metrics.Target, error) { return f, nil }

// machine is a copy of the recorded v2 machine with one more cgroup that is of
// no pod; each has used the given CPU time within the last ten seconds.
func machine(dir string, seconds map[string]float64) (*metrics.Meter, error) {
	if err := os.CopyFS(dir, os.DirFS("../testdata/v2")); err != nil {
		return nil, err
	}
	cgroup := filepath.Join(dir, "cgroup")
	if err := os.CopyFS(filepath.Join(cgroup, "system/ssh"), os.DirFS("../testdata/v2/cgroup/kubepods/pod1/c1")); err != nil {
		return nil, err
	}
	if err := os.CopyFS(filepath.Join(cgroup, "system"), os.DirFS("../testdata/v2/cgroup/kubepods/pod1/c2")); err != nil {
		return nil, err
	}
	burn := func(path string, seconds float64) error {
		text := fmt.Sprintf("usage_usec %d\nuser_usec 1\nsystem_usec 1\n", int64(seconds*1e6))
		return os.WriteFile(filepath.Join(cgroup, path, "cpu.stat"), []byte(text), 0o644)
	}
	clock := testclock.NewFakeClock(time.Unix(1_800_000_000, 0))
	meter, err := metrics.New(metrics.Config{
		CgroupRoot: cgroup, ProcRoot: filepath.Join(dir, "proc"), SysRoot: filepath.Join(dir, "sys"), Clock: clock,
		Targets: fixed{
			{Cgroup: "/kubepods/pod1", Namespace: "default", Pod: "web", PodUID: "u1"},
			{Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1"},
			{Cgroup: "/system", Container: "/system"}, {Cgroup: "/system/ssh", Container: "/system/ssh"},
			{Cgroup: "/gone", Container: "/gone"},
		},
	})
	if err != nil {
		return nil, err
	}
	for path := range seconds {
		if err := burn(path, 100); err != nil {
			return nil, err
		}
	}
	if _, err := meter.Samples(context.Background(), 0); err != nil {
		return nil, err
	}
	clock.Step(10 * time.Second)
	for path, used := range seconds {
		if err := burn(path, 100+used); err != nil {
			return nil, err
		}
	}
	return meter, nil
}

func report(cfg burden.Config) *burden.Report {
	GinkgoHelper()
	r, err := burden.New(cfg)
	Expect(err).NotTo(HaveOccurred())
	got, err := r.Report(context.Background())
	Expect(err).NotTo(HaveOccurred())
	return got
}

var _ = Describe("Report", func() {
	var meter *metrics.Meter
	BeforeEach(func() {
		var err error
		meter, err = machine(GinkgoT().TempDir(), map[string]float64{"": 15, "kubepods/pod1": 4, "kubepods/pod1/c1": 4, "system": 9, "system/ssh": 8})
		Expect(err).NotTo(HaveOccurred())
	})

	It("ranks pods and what is of no pod, nothing twice", func() {
		got := report(burden.Config{Meter: meter, Cores: 4})
		var names []string
		for _, b := range got.Burdens {
			names = append(names, b.Name)
		}
		Expect(names).To(Equal([]string{"/system/ssh", "default/web"}))
		Expect(*got.Burdens[0].Used.CPU).To(BeNumerically("~", 0.8, 1e-9))
		Expect(got.Burdens[0].Share).To(BeNumerically("~", 0.2, 1e-9))
		Expect(*got.Used.CPU).To(BeNumerically("~", 1.5, 1e-9))
	})

	It("says what can be given, is asked for, and pressure", func() {
		got := report(burden.Config{Meter: meter, Cores: 4, ReservedCPU: 0.5, ReservedMemory: 1 << 30,
			Requests: func(t metrics.Target) (a burden.Amount) {
				if t.Pod == "web" {
					memory := uint64(10 << 20)
					a.Memory = &memory
				}
				return a
			}})
		Expect(*got.Allocatable.CPU).To(Equal(3.5))
		Expect(*got.Capacity.Memory - *got.Allocatable.Memory).To(Equal(uint64(1 << 30)))
		Expect(*got.Requested.Memory).To(Equal(uint64(10 << 20)))
		Expect(got.Requested.CPU).NotTo(BeNil()) // off the cgroup's weight
		Expect(*got.Pressure.IO).To(BeNumerically(">", 0))
		web := got.Burdens[1]
		Expect(web.Reasons).To(ContainElement(MatchRegexp(`^uses \S+ of memory, requested 10Mi$`)))
	})

	It("leaves out what is beyond Most, and counts it", func() {
		got := report(burden.Config{Meter: meter, Cores: 4, Most: 1})
		Expect(got.Burdens).To(HaveLen(1))
		Expect(got.More).To(Equal(1))
		Expect(got.String()).To(HaveSuffix("and 1 more\n"))
	})

	It("can be written as JSON", func() {
		text, err := json.Marshal(report(burden.Config{Meter: meter, Cores: 4}))
		Expect(err).NotTo(HaveOccurred())
		Expect(string(text)).To(ContainSubstring(`"burdens":[{"name":"/system/ssh","cgroup":"/system/ssh","pod":false,"share":0.2,`))
	})

	It("fails with the meter", func() {
		r, err := burden.New(burden.Config{Meter: broken{}})
		Expect(err).NotTo(HaveOccurred())
		_, err = r.Report(context.Background())
		Expect(err).To(MatchError("no hierarchy"))
	})

	It("reports all bad fields together", func() {
		_, err := burden.New(burden.Config{MaxAge: -1, Cores: 2, ReservedCPU: 3})
		Expect(err).To(MatchError(And(ContainSubstring("Meter"), ContainSubstring("MaxAge"), ContainSubstring("ReservedCPU"))))
	})
})

type broken struct{}

func (broken) Samples(context.Context, time.Duration) ([]metrics.Sample, error) {
	return nil, errors.New("no hierarchy")
}

func Example() {
	dir, err := os.MkdirTemp("", "burden")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	meter, err := machine(dir, map[string]float64{"": 15, "kubepods/pod1": 4, "system": 9, "system/ssh": 8})
	if err != nil {
		panic(err)
	}
	ranking, err := burden.New(burden.Config{Meter: meter, Cores: 4})
	if err != nil {
		panic(err)
	}
	report, err := ranking.Report(context.Background())
	if err != nil {
		panic(err)
	}
	// The second half is who burdens the node.
	_, burdens, _ := strings.Cut(report.String(), "\n\n")
	fmt.Print(burdens)
	// Output:
	//  SHARE      CPU     MEMORY  WHO
	//  20.0%    0.800       48Mi  /system/ssh: at its limit of 0.50 cores; kills for want of memory: 1
	//  10.0%    0.400       48Mi  default/web: kills for want of memory: 1
}
