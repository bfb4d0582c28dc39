package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
)

// hugePagesCounted is where cgroups that count huge pages begin, and the file of
// a limit; "" if the kernel has none.
func hugePagesCounted() (root, file string) {
	if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil {
		return "/sys/fs/cgroup/hugetlb", "hugetlb.2MB.limit_in_bytes"
	}
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // v2 alone
	if slices.Contains(strings.Fields(string(controllers)), "hugetlb") {
		return "/sys/fs/cgroup", "hugetlb.2MB.max"
	}
	return "", ""
}

var _ = Describe("limits of huge pages", func() {
	for _, handler := range []string{"", "small"} {
		It("are kept where the kernel counts them, and hold up nobody where it does not, handler "+strconv.Quote(handler), func() {
			kerneltest.Require(GinkgoTB(), kerneltest.Crun)
			e := prepareEnv(GinkgoTB())
			e.cfg.RuntimeHandlers = map[string]string{"small": "crun"}
			e.open()
			e.image = e.pull(e.images.Prog)
			sandbox := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = handler })
			for name, limit := range map[string]uint64{"some": 4 << 20, "none": 0} {
				c := e.status(e.start(sandbox, name, "forever", func(c *runtimeiface.ContainerSpec) {
					c.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: limit}}}
				}))
				Expect(c.State).To(Equal(runtimeiface.ContainerRunning))
				if root, file := hugePagesCounted(); root != "" {
					Expect(os.ReadFile(filepath.Join(root, c.Cgroup, file))).To(BeEquivalentTo(fmt.Sprintln(limit)))
				}
			}
		})
	}
})
