package machine_test

import (
	"runtime"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/metrics/machine"
)

var _ = Describe("MachineInfo", func() {
	It("agrees with this machine", func(ctx SpecContext) {
		m, err := machine.New(machine.Config{})
		Expect(err).NotTo(HaveOccurred())
		info, err := m.MachineInfo(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.NumCores).To(BeNumerically(">=", runtime.NumCPU())) // affinity may leave us fewer
		Expect(info.MemoryCapacity).To(BeNumerically(">", 0))
		Expect(info.BootID).To(MatchRegexp(`^[0-9a-f-]{36}$`))
		Expect(info.Topology).NotTo(BeEmpty())
	})
})
