package image_test

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr/funcr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

const (
	victimRef  = "NODEKIT_IMAGE_VICTIM_REF"
	victimRoot = "NODEKIT_IMAGE_VICTIM_ROOT"
	// victimCollects is a second image: then the victim collects.
	victimCollects = "NODEKIT_IMAGE_VICTIM_COLLECTS"
	// victimDies has it end by its own hand amid a collection.
	victimDies = "NODEKIT_IMAGE_VICTIM_DIES"
)

// collector pulls two images and collects them, until it is killed. It says
// when it begins to collect.
func collector(refs ...string) int {
	s, err := image.Open(image.Config{Root: os.Getenv(victimRoot), MinFreeBytes: 1, Logger: funcr.New(func(_, line string) {
		// The index is written, and no layer gone yet.
		if os.Getenv(victimDies) != "" && strings.Contains(line, "image collected") {
			self, _ := os.FindProcess(os.Getpid())
			_ = self.Kill()
			select {}
		}
	}, funcr.Options{})})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		for _, ref := range refs {
			if _, err := s.Pull(context.Background(), ref, image.PullOptions{}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		fmt.Println("ready")
		c, err := s.Collect(context.Background(), image.CollectPolicy{FreeBytes: math.MaxInt64, MinAge: time.Nanosecond})
		if err != nil || len(s.List()) > 0 || c.Freed == 0 {
			fmt.Fprintln(os.Stderr, err, s.List(), c)
			return 1
		}
	}
}

// victim pulls, mounts, unmounts and removes until it is killed.
func victim(ref string) int {
	if other := os.Getenv(victimCollects); other != "" {
		return collector(ref, other)
	}
	s, err := image.Open(image.Config{Root: os.Getenv(victimRoot), MinFreeBytes: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	for {
		img, err := s.Pull(context.Background(), ref, image.PullOptions{})
		if err == nil {
			_, err = s.Mount(context.Background(), "box", img.ID, image.MountOptions{})
		}
		if err == nil {
			err = s.Unmount("box")
		}
		if err == nil {
			err = s.Remove(img.ID)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

var _ = Describe("A process killed at any moment", func() {
	It("leaves a store that opens, pulls and holds no garbage, 20 times", func(ctx context.Context) {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Overlay)
		h := newHub()
		root := newRoot()
		img := imageOf(randomLayer(1, 4<<20), randomLayer(2, 2<<20), lay(dir("d"), file("d/f", "x")))
		ref := h.push("web:1", img)
		seed := GinkgoRandomSeed()
		rng := rand.New(rand.NewSource(seed))
		states := map[string]int{}
		for round := range 20 {
			By(fmt.Sprintf("round %d, seed %d", round, seed))
			killVictim(root, ref, "", time.Duration(rng.Intn(250))*time.Millisecond)
			states[fmt.Sprintf("tmp:%t ingest:%t container:%t", len(names(root, "tmp")) > 0,
				len(names(root, "ingest")) > 0, len(names(root, "containers")) > 0)]++

			s, err := image.Open(image.Config{Root: root, MinFreeBytes: 1})
			Expect(err).NotTo(HaveOccurred())
			Expect(names(root, "tmp")).To(BeEmpty())
			gone, err := s.Reap(func(string) bool { return false })
			Expect(err).NotTo(HaveOccurred())
			Expect(len(gone)).To(BeNumerically("<=", 1))
			got, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).NotTo(HaveOccurred())
			rootfs, err := s.Mount(ctx, "check", got.ID, image.MountOptions{})
			Expect(err).NotTo(HaveOccurred())
			for _, name := range []string{"file-1", "file-2"} {
				info, err := os.Stat(filepath.Join(rootfs, name))
				Expect(err).NotTo(HaveOccurred())
				Expect(info.Size()).To(BeNumerically(">=", 2<<20))
			}
			Expect(s.Unmount("check")).To(Succeed())
			expectClean(root)
			Expect(names(root, "layers")).To(HaveLen(3))
			Expect(names(root, "containers")).To(BeEmpty())
			if round%2 == 0 {
				Expect(s.Remove(ref)).To(Succeed())
				Expect(names(root, "layers")).To(BeEmpty())
			}
			Expect(s.Close()).To(Succeed())
		}
		AddReportEntry("states found after the kills", states)
		expectNoMounts(root)
	})

	It("while it collects leaves each image whole or absent, 20 times", func(ctx context.Context) {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Overlay)
		h := newHub()
		root := newRoot()
		// Many files, so that their removal takes time to be killed in.
		layers := make([]v1.Layer, 3)
		for i := range layers {
			var entries []entry
			for j := range 300 {
				entries = append(entries, file(fmt.Sprintf("layer-%d/%d", i, j), "x"))
			}
			layers[i] = lay(entries...)
		}
		one, two := h.push("one:1", imageOf(layers[0], layers[1])), h.push("two:1", imageOf(layers[0], layers[2]))
		has := map[string][]int{one: {0, 1}, two: {0, 2}}
		seed := GinkgoRandomSeed()
		rng := rand.New(rand.NewSource(seed))
		states := map[string]int{}
		for round := range 20 {
			By(fmt.Sprintf("round %d, seed %d", round, seed))
			// From 1 µs to 100 ms, each order of magnitude as often.
			after := time.Duration(math.Pow(10, 5*rng.Float64())) * time.Microsecond
			if round%5 == 0 {
				killVictim(root, one, two, time.Minute, victimDies+"=1")
				Expect(names(root, "layers")).To(HaveLen(3))
			} else {
				killVictim(root, one, two, after)
			}
			inTmp := len(names(root, "tmp")) > 0

			s, err := image.Open(image.Config{Root: root, MinFreeBytes: 1})
			Expect(err).NotTo(HaveOccurred())
			states[fmt.Sprintf("images:%d layers:%d tmp:%t", len(s.List()), len(names(root, "layers")), inTmp)]++
			Expect(names(root, "tmp")).To(BeEmpty())
			whole := func(ref string) {
				rootfs, err := s.Mount(ctx, "check", ref, image.MountOptions{})
				Expect(err).NotTo(HaveOccurred())
				for _, i := range has[ref] {
					Expect(names(rootfs, fmt.Sprint("layer-", i))).To(HaveLen(300))
				}
				Expect(s.Unmount("check")).To(Succeed())
			}
			for _, img := range s.List() {
				whole(img.RepoTags[0])
			}
			if round%2 == 0 {
				for ref := range has {
					_, err = s.Pull(ctx, ref, image.PullOptions{})
					Expect(err).NotTo(HaveOccurred())
					whole(ref)
				}
			}
			_, err = s.Collect(ctx, image.CollectPolicy{FreeBytes: math.MaxInt64, MinAge: time.Nanosecond})
			Expect(err).NotTo(HaveOccurred())
			for _, dir := range []string{"tmp", "ingest", "layers", "used", "containers"} {
				Expect(names(root, dir)).To(BeEmpty(), dir)
			}
			Expect(s.Close()).To(Succeed())
		}
		AddReportEntry("states found after the kills", states)
		Expect(len(states)).To(BeNumerically(">", 1), "all kills came at the same point")
		expectNoMounts(root)
	})
})

func expectNoMounts(root string) {
	GinkgoHelper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	Expect(err).NotTo(HaveOccurred())
	Expect(string(mounts)).NotTo(ContainSubstring(root))
}

// killVictim starts a child on root and kills it some time after it is ready,
// if it does not die before.
func killVictim(root, ref, collects string, after time.Duration, env ...string) {
	GinkgoHelper()
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), victimRef+"="+ref, victimRoot+"="+root, victimCollects+"="+collects), env...)
	cmd.Stderr = GinkgoWriter
	out, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	_, err = out.Read(make([]byte, 16))
	Expect(err).NotTo(HaveOccurred())
	// The moment of the kill is the point.
	killer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	err = cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	Expect(status.Signaled()).To(BeTrue(), "it ended by itself: %v", err)
}
