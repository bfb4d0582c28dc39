package nftables_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func openIn(ns *kerneltest.NetNS, table string) *nftables.Dialect {
	GinkgoHelper()
	d, err := nftables.Open(nftables.Config{Table: table, NetNS: ns.FD()})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(d.Close)
	return d
}

// nft runs the tool in a namespace.
func nft(ns *kerneltest.NetNS, stdin string, args ...string) string {
	GinkgoHelper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + ns.Path(), "nft"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "nft %s\n%s\n%s", strings.Join(args, " "), out, stdin)
	return string(out)
}

var elementsBlock = regexp.MustCompile(`elements = \{[^}]*\}`)

// canonical sorts the chains and elements of a listing.
func canonical(listing string) string {
	listing = elementsBlock.ReplaceAllStringFunc(nameTokens(listing), func(block string) string {
		parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(block, "elements = {"), "}"), ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		slices.Sort(parts)
		return "elements = { " + strings.Join(parts, ", ") + " }"
	})
	blocks := strings.Split(listing, "\n\n")
	for i := range blocks {
		blocks[i] = strings.TrimRight(strings.TrimRight(strings.TrimSpace(blocks[i]), "\n}"), "\n\t ")
	}
	blocks = slices.DeleteFunc(blocks, func(block string) bool { return block == "" })
	slices.Sort(blocks)
	return strings.Join(blocks, "\n\n")
}

var (
	tokenMap = regexp.MustCompile(`(?s)map (affinity-ep|pick|nppick)-(tcp|udp|sctp) \{.*?\n\t\}`)
	pickOf   = regexp.MustCompile(`([^{},]+?) : ([0-9a-f]+:[0-9a-f]+)`)
	tokenOf  = regexp.MustCompile(`([0-9a-f]+:[0-9a-f]+) : ([^{},]+?)([ ,])`)
)

// nameTokens puts in the place of each token what it stands for, as the numbers
// depend on what was there before: the least slot that uses its group, and the
// endpoint.
func nameTokens(listing string) string {
	group := func(token string) string {
		var major, minor uint32
		_, err := fmt.Sscanf(token, "%x:%x", &major, &minor)
		Expect(err).NotTo(HaveOccurred())
		return fmt.Sprintf("%x", major<<4|minor>>12)
	}
	slots, endpoints := make(map[string]string), make(map[string]string)
	for _, m := range tokenMap.FindAllStringSubmatch(listing, -1) {
		for _, e := range pickOf.FindAllStringSubmatch(m[0], -1) {
			if m[1] != "affinity-ep" {
				key := m[2] + " " + group(e[2])
				if slot := m[1] + " " + strings.TrimSpace(e[1]); slots[key] == "" || slot < slots[key] {
					slots[key] = slot
				}
			}
		}
		for _, e := range tokenOf.FindAllStringSubmatch(m[0], -1) {
			if m[1] == "affinity-ep" {
				endpoints[m[2]+" "+e[1]] = e[2]
			}
		}
	}
	return tokenMap.ReplaceAllStringFunc(listing, func(block string) string {
		m := tokenMap.FindStringSubmatch(block)
		if m[1] == "affinity-ep" {
			return tokenOf.ReplaceAllStringFunc(block, func(e string) string {
				parts := tokenOf.FindStringSubmatch(e)
				return "[" + slots[m[2]+" "+group(parts[1])] + "] : " + parts[2] + parts[3]
			})
		}
		return pickOf.ReplaceAllStringFunc(block, func(e string) string {
			parts := pickOf.FindStringSubmatch(e)
			return parts[1] + " : " + endpoints[m[2]+" "+parts[2]] + " of [" + slots[m[2]+" "+group(parts[2])] + "]"
		})
	})
}

// balancerBlock is a chain that no front may use any more.
var balancerBlock = regexp.MustCompile(`(?s)\tchain (m?n?i?(lb|aff|pick)-[a-z]+-[0-9-]+|from-[0-9a-f]+) \{.*?\n\t\}\n?\n?`)

// listing is what a table holds, whatever the order it came in.
func listing(ns *kerneltest.NetNS, table string) string {
	GinkgoHelper()
	return listingWithout(ns, table, regexp.MustCompile(`$^`))
}

// inUse is the listing without the chains that balance.
func inUse(ns *kerneltest.NetNS, table string) string {
	GinkgoHelper()
	return listingWithout(ns, table, balancerBlock)
}

func listingWithout(ns *kerneltest.NetNS, table string, skip *regexp.Regexp) string {
	GinkgoHelper()
	var out []string
	for _, family := range []string{"ip", "ip6"} {
		if strings.Contains(nft(ns, "", "list", "tables"), "table "+family+" "+table+"\n") {
			text := nft(ns, "", "-nn", "list", "table", family, table)
			out = append(out, canonical(skip.ReplaceAllString(text, "")))
		}
	}
	return strings.Join(out, "\n")
}

var _ = Describe("rules in the kernel", func() {
	ctx := context.Background()
	const table = "nodekit-test"

	BeforeEach(func() { kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft) })

	It("are what Render writes, as nft lists them", func() {
		services, endpoints := example()
		for _, node := range nodes() {
			byNetlink, byText := kerneltest.NewNetNS(GinkgoT()), kerneltest.NewNetNS(GinkgoT())
			wanted := build(services, endpoints, node, nil)
			stats, err := openIn(byNetlink, table).Sync(ctx, wanted)
			Expect(err).NotTo(HaveOccurred())
			Expect(stats.Full).To(BeTrue())
			text, err := nftables.Render(nftables.Config{Table: table}, wanted)
			Expect(err).NotTo(HaveOccurred())
			nft(byText, text, "-f", "-")
			Expect(listing(byNetlink, table)).To(Equal(listing(byText, table)))
			Expect(listing(byNetlink, table)).To(ContainSubstring("10.96.0.10 . 6 . 80 : goto lb-tcp-2"))
		}
	})

	It("are text that nft checks, for each golden file", func() {
		files, err := filepath.Glob("../testdata/*.nft")
		Expect(err).NotTo(HaveOccurred())
		Expect(files).NotTo(BeEmpty())
		for _, file := range files {
			text, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			nft(kerneltest.NewNetNS(GinkgoT()), string(text), "-c", "-f", "-")
		}
	})

	It("come to the same by changes as by a first load, whatever the order", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		d := openIn(ns, table)
		r := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 1))
		var previous *proxyrules.Table
		full := 0
		for step := range 40 {
			services, endpoints := random(r)
			previous = build(services, endpoints, testNode, previous)
			stats, err := d.Sync(ctx, previous)
			Expect(err).NotTo(HaveOccurred(), "step %d", step)
			if stats.Full {
				full++
			}
			if step%8 == 7 {
				other := kerneltest.NewNetNS(GinkgoT())
				_, err = openIn(other, table).Sync(ctx, previous)
				Expect(err).NotTo(HaveOccurred())
				same := func(g Gomega) {
					_, err := d.Sync(ctx, previous) // what outlived its use goes later
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(strings.Split(inUse(ns, table), "\n")).To(Equal(strings.Split(inUse(other, table), "\n")), "step %d", step)
				}
				Eventually(ctx, same).WithTimeout(60 * time.Second).WithPolling(100 * time.Millisecond).Should(Succeed())
			}
		}
		Expect(full).To(Equal(1), "only the first sync reads the kernel")
	})

	It("are adopted by a new process as they are, slots too", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		r := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 2))
		var last *proxyrules.Table
		first := openIn(ns, table)
		for range 10 {
			services, endpoints := random(r)
			services = withoutClashes(services)
			last = build(services, endpoints, testNode, last)
			_, err := first.Sync(ctx, last)
			Expect(err).NotTo(HaveOccurred())
			Expect(first.Close()).To(Succeed())
			before := inUse(ns, table)

			first = openIn(ns, table)
			loaded, err := first.Load(ctx)
			Expect(err).NotTo(HaveOccurred())
			last = build(services, endpoints, testNode, loaded)
			stats, err := first.Sync(ctx, last)
			Expect(err).NotTo(HaveOccurred())
			stats.FlowsDuration = 0 // that of a look
			Expect(stats).To(Equal(proxyrules.SyncStats{Full: true}))
			Expect(inUse(ns, table)).To(Equal(before))
		}
	})

	It("are repaired after edits by others, and not read without", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		d := openIn(ns, table)
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		_, err := d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		good := listing(ns, table)
		stats, err := d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		Expect(stats).To(Equal(proxyrules.SyncStats{}))

		for _, edit := range []string{
			"flush ruleset",
			"delete table ip " + table,
			"flush chain ip " + table + " dispatch",
			"add rule ip " + table + " prerouting drop",
			"add element ip " + table + " cluster-ips { 10.96.0.99 }",
			"delete element ip " + table + " ep-tcp { 10.96.0.10 . 80 . 1 }",
			"delete element ip " + table + " ep-tcp { 10.96.0.10 . 80 . 1 }; add element ip " + table + " ep-tcp { 10.96.0.10 . 80 . 1 : 10.0.0.9 . 80 }",
			"add chain ip " + table + " other { type filter hook forward priority 0; policy drop; }",
			"add chain ip " + table + " lb-tcp-1024",
			"add set ip " + table + " other { type mark; }",
			"flush chain ip6 " + table + " filter-input; delete chain ip6 " + table + " filter-input",
			"add chain ip " + table + " filter-forward { policy drop; }",
			"flush chain ip " + table + " output; delete chain ip " + table + " output; add chain ip " + table + " output { type filter hook output priority 0; policy drop; }",
			"add table ip " + table + " { flags dormant; }",
		} {
			nft(ns, edit, "-f", "-")
			Expect(listing(ns, table)).NotTo(Equal(good), edit)
			stats, err := d.Sync(ctx, wanted)
			Expect(err).NotTo(HaveOccurred(), edit)
			Expect(stats.Full).To(BeTrue(), edit)
			Expect(listing(ns, table)).To(Equal(good), edit)
		}
	})

	It("do not collide with another table's, and are removed wholly", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		one, two := openIn(ns, "one"), openIn(ns, "two")
		for _, d := range []*nftables.Dialect{one, two, one} {
			_, err := d.Sync(ctx, wanted)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(strings.ReplaceAll(listing(ns, "one"), " one ", " two ")).To(Equal(listing(ns, "two")))
		Expect(one.Cleanup(ctx)).To(Succeed())
		Expect(one.Cleanup(ctx)).To(Succeed())
		Expect(nft(ns, "", "list", "tables")).To(Equal("table ip two\ntable ip6 two\n"))
		_, err := one.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		Expect(one.Cleanup(ctx)).To(Succeed())
		Expect(openIn(ns, "two").Cleanup(ctx)).To(Succeed())
		Expect(nft(ns, "", "list", "ruleset")).To(BeEmpty())
	})

	It("are left alone when another table changes", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		d := openIn(ns, table)
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		_, err := d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		ours := nft(ns, "", "-a", "list", "table", "ip", table)
		Expect(ours).To(ContainSubstring("# handle"))
		nft(ns, "add table ip other", "-f", "-")
		stats, err := d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		stats.FlowsDuration = 0 // that of a look
		Expect(stats).To(Equal(proxyrules.SyncStats{Full: true}))
		Expect(nft(ns, "", "-a", "list", "table", "ip", table)).To(Equal(ours), "not even the rules' handles changed")
		stats, err = d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		Expect(stats.Full).To(BeFalse())
	})

	It("follow the node's facts", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		d := openIn(ns, table)
		services, endpoints := example()
		for i, node := range nodes() {
			wanted := build(services, endpoints, node, nil)
			_, err := d.Sync(ctx, wanted)
			Expect(err).NotTo(HaveOccurred())
			other := kerneltest.NewNetNS(GinkgoT())
			_, err = openIn(other, table).Sync(ctx, wanted)
			Expect(err).NotTo(HaveOccurred())
			Expect(listing(ns, table)).To(Equal(listing(other, table)), fmt.Sprint(i))
		}
	})
})
