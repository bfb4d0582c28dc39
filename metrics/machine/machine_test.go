package machine_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/nodekit/nodekit/metrics/machine"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

func TestMachine(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "metrics/machine")
}

func recorded() *machine.Machine {
	root, err := filepath.Abs("testdata/root")
	if err != nil {
		panic(err)
	}
	m, err := machine.New(machine.Config{Root: root, Now: func() time.Time { return time.Unix(1_800_000_000, 0).UTC() }})
	if err != nil {
		panic(err)
	}
	return m
}

func expectGolden(name, text string) {
	GinkgoHelper()
	path := filepath.Join("testdata", name)
	if *update {
		Expect(os.WriteFile(path, []byte(text), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	Expect(text).To(Equal(string(want)))
}

var _ = Describe("Machine", func() {
	ctx := context.Background()

	It("has no family that FIGURES.md does not tell of", func() {
		document, err := os.ReadFile("../FIGURES.md")
		Expect(err).NotTo(HaveOccurred())
		var text strings.Builder
		Expect(recorded().WriteMetrics(ctx, &text)).To(Succeed())
		families := regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text.String(), -1)
		Expect(families).NotTo(BeEmpty())
		for _, f := range families {
			Expect(string(document)).To(ContainSubstring("\n| `%s` | %s | ", f[1], f[2]))
		}
	})

	It("tells of two sockets with threads, one of them offline", func() {
		info, err := recorded().MachineInfo(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.NumCores).To(Equal(7))
		Expect(info.NumPhysicalCores).To(Equal(4))
		Expect(info.NumSockets).To(Equal(2))
		for i := range info.Filesystems { // their size is that of the disk the test runs on
			info.Filesystems[i].Capacity, info.Filesystems[i].Inodes = 0, 0
			info.Filesystems[i].HasInodes = false
		}
		text, err := json.MarshalIndent(info, "", "  ")
		Expect(err).NotTo(HaveOccurred())
		expectGolden("info.golden", string(text)+"\n")
	})

	It("writes the families of the kubelet, to the byte", func() {
		var text strings.Builder
		Expect(recorded().WriteMetrics(ctx, &text)).To(Succeed())
		expectGolden("text.golden", text.String())
		problems, err := promlint.New(strings.NewReader(text.String())).Lint()
		Expect(err).NotTo(HaveOccurred())
		for _, p := range problems { // its labels are camelCase at cAdvisor
			Expect(p.Metric).To(Equal("cadvisor_version_info"), p.Text)
		}
	})

	It("says so where there is no /proc", func() {
		m, err := machine.New(machine.Config{Root: GinkgoT().TempDir()})
		Expect(err).NotTo(HaveOccurred())
		_, err = m.MachineInfo(ctx)
		Expect(err).To(MatchError(ContainSubstring("MemTotal")))
	})
})

func Example() {
	info, err := recorded().MachineInfo(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.NumCores, info.NumPhysicalCores, info.NumSockets, info.MemoryCapacity>>20, "MiB")
	// Output: 7 4 2 16000 MiB
}
