package nftables_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// agentTable, in the environment of a test binary, makes it an agent that
// writes two tables in turn into its network namespace until it is killed.
const agentTable = "NODEKIT_TEST_AGENT_TABLE"

// turns are two tables that differ in most of their fronts, the second built
// upon the first.
func turns() [2]*proxyrules.Table {
	r := rand.New(rand.NewPCG(5, 5))
	services, endpoints := random(r)
	more, backs := many(300, 4)
	first := build(append(withoutClashes(services), more...), append(endpoints, backs...), testNode, nil)
	services, endpoints = random(r)
	for i, s := range backs {
		if i%2 == 0 {
			s = s.DeepCopy()
			s.Endpoints = s.Endpoints[:1+i%4]
			s.Endpoints[0].Addresses[0] = "10.244.7.7"
			backs[i] = s
		}
	}
	second := build(append(withoutClashes(services), more[100:]...), append(endpoints, backs...), testNode, first)
	return [2]*proxyrules.Table{first, second}
}

func TestMain(m *testing.M) {
	if name := os.Getenv(agentTable); name != "" {
		fmt.Fprintln(os.Stderr, agent(name))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func agent(name string) error {
	ctx := context.Background()
	tables := turns()
	for {
		d, err := nftables.Open(nftables.Config{Table: name})
		if err != nil {
			return err
		}
		for i := range 10 {
			if _, err := d.Sync(ctx, tables[i%2]); err != nil {
				return err
			}
		}
		if err := d.Close(); err != nil {
			return err
		}
	}
}

// passing is what no two tables agree in: hairpins outlive their use for a
// while, and clients come and go.
var passing = regexp.MustCompile(`(?s)\t(set hairpin|map affinity-(tcp|udp|sctp)) \{.*?\n\t\}\n?\n?`)

func whole(ns *kerneltest.NetNS, table string) string {
	return listingWithout(ns, table, regexp.MustCompile(balancerBlock.String()+"|"+passing.String()))
}

// loaded is what a table is in a kernel, as whole tells it.
func loaded(table *proxyrules.Table, name string) string {
	GinkgoHelper()
	ns := kerneltest.NewNetNS(GinkgoT())
	_, err := openIn(ns, name).Sync(context.Background(), table)
	Expect(err).NotTo(HaveOccurred())
	return whole(ns, name)
}

var _ = Describe("whatever happens", func() {
	ctx := context.Background()
	const name = "nodekit-test"

	BeforeEach(func() { kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft) })

	It("kill -9 leaves one table or the other, whole, and the next agent goes on from there", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		tables := turns()
		known := map[string]string{loaded(tables[0], name): "first", loaded(tables[1], name): "second", "": "none"}
		r := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 9))
		seen := map[string]int{}
		for i := range rounds(12) {
			cmd := exec.Command("nsenter", "--net="+ns.Path(), os.Args[0])
			cmd.Env = append(os.Environ(), agentTable+"="+name)
			Expect(cmd.Start()).To(Succeed())
			time.Sleep(time.Duration(r.IntN(400_000)) * time.Microsecond)
			Expect(cmd.Process.Kill()).To(Succeed())
			_ = cmd.Wait()
			is, ok := known[whole(ns, name)]
			Expect(ok).To(BeTrue(), "half a table after kill %d", i)
			seen[is]++
			d := openIn(ns, name)
			_, err := d.Sync(ctx, tables[i%2])
			Expect(err).NotTo(HaveOccurred())
			Expect(known[whole(ns, name)]).To(Equal([]string{"first", "second"}[i%2]))
			Expect(d.Close()).To(Succeed())
		}
		GinkgoWriter.Printf("tables found after kills: %v\n", seen)
	})

	It("signals interrupt no exchange with the kernel", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		services, endpoints := many(2000, 5)
		table := build(services, endpoints, testNode, nil)
		_, err := openIn(ns, name).Sync(ctx, table)
		Expect(err).NotTo(HaveOccurred())
		tid, stop := make(chan int), make(chan struct{})
		var signals atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			to := <-tid
			for {
				select {
				case <-stop:
					return
				default:
				}
				if unix.Tgkill(os.Getpid(), to, unix.SIGURG) == nil { // which Go itself uses
					signals.Add(1)
				}
				time.Sleep(20 * time.Microsecond)
			}
		})
		func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid <- unix.Gettid()
			defer wg.Wait()
			defer close(stop)
			for range 4 {
				d, err := nftables.Open(nftables.Config{Table: name, NetNS: ns.FD()})
				Expect(err).NotTo(HaveOccurred())
				stats, err := d.Sync(ctx, table)
				Expect(err).NotTo(HaveOccurred())
				Expect(stats).To(Equal(proxyrules.SyncStats{Full: true}))
				Expect(d.Close()).To(Succeed())
			}
		}()
		Expect(signals.Load()).To(BeNumerically(">", 0))
	})

	It("two agents on one table are each told of the other, and what stands is always whole", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		names := map[string]string{}
		var proxies []*proxyrules.Proxy
		var stops []func()
		for i := range 2 {
			services, endpoints := many(40, 2)
			services = services[i*10:]
			table := build(services, endpoints, testNode, nil)
			names[loaded(table, name)] = fmt.Sprint(i)
			d := openIn(ns, name)
			proxy, err := proxyrules.New(proxyrules.Config{Dialect: d, Watch: d.Watch, Node: testNode, CheckEvery: 20 * time.Millisecond})
			Expect(err).NotTo(HaveOccurred())
			runCtx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- proxy.Run(runCtx) }()
			stop := sync.OnceFunc(func() { cancel(); Expect(<-done).To(Succeed()) })
			DeferCleanup(stop)
			proxy.Set(services, endpoints)
			proxies, stops = append(proxies, proxy), append(stops, stop)
		}
		seen := map[string]int{}
		told := func(proxy *proxyrules.Proxy) bool { return proxy.Status().Drifts > 0 }
		Eventually(func(g Gomega) {
			if text := whole(ns, name); text != "" {
				is, ok := names[text]
				Expect(ok).To(BeTrue(), "a mixture of both: %s", text)
				seen[is]++
			}
			g.Expect(told(proxies[0]) && told(proxies[1])).To(BeTrue())
			g.Expect(seen).To(HaveLen(2))
		}).WithTimeout(60 * time.Second).WithPolling(10 * time.Millisecond).Should(Succeed())
		GinkgoWriter.Printf("seen of each: %v, drifts %d and %d\n", seen, proxies[0].Status().Drifts, proxies[1].Status().Drifts)
		stops[0]()
		Eventually(func() string { return names[whole(ns, name)] }).WithTimeout(60 * time.Second).Should(Equal("1"))
	})

	It("an odd refusal does not stand in the way of the table", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		tables := turns()
		d := openIn(ns, name)
		for i := range 6 {
			_, err := d.Sync(ctx, tables[i%2])
			Expect(err).NotTo(HaveOccurred())
			// What is to be changed next is not there, or is something else.
			nft(ns, edit(i, name), "-f", "-")
			_, err = d.Sync(ctx, tables[1-i%2])
			Expect(err).NotTo(HaveOccurred())
			Expect(whole(ns, name)).To(Equal(loaded(tables[1-i%2], name)), strconv.Itoa(i))
		}
	})
})

func edit(i int, table string) string {
	return []string{
		"flush map ip " + table + " services",
		"flush map ip " + table + " ep-tcp",
		"flush map ip " + table + " pick-tcp; flush map ip " + table + " affinity-ep-tcp",
		"delete table ip " + table,
		"flush set ip " + table + " cluster-ips",
		"flush ruleset",
	}[i]
}
