package e2e_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
)

// census counts what the kernel holds for a node.
type census struct {
	pods, containers, veths int
}

// census of cgroups (pods, and cgroups that hold processes) and links.
func (n *node) census() (c census) {
	GinkgoHelper()
	root := filepath.Join("/sys/fs/cgroup/memory", n.Cgroup)
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		root = filepath.Join("/sys/fs/cgroup", n.Cgroup)
	}
	Expect(filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || !strings.Contains(path, "kubepods") {
			return err
		}
		if strings.HasPrefix(entry.Name(), "pod") {
			c.pods++
			return nil
		}
		processes, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if len(processes) > 0 {
			c.containers++
		}
		return err
	})).To(Succeed())
	Expect(n.NetNS.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if name := link.Attrs().Name; link.Type() == "veth" && name != "eth0" && name != "uplink" {
				c.veths++
			}
		}
		return err
	})).To(Succeed())
	return c
}

// example puts one of the quickstart's manifests on the node.
func (n *node) example(name string) {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join(manifest, name))
	Expect(err).NotTo(HaveOccurred())
	Expect(n.Write(name, string(text))).To(Succeed())
}
