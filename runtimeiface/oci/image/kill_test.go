package image_test

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

const (
	victimRef  = "NODEKIT_IMAGE_VICTIM_REF"
	victimRoot = "NODEKIT_IMAGE_VICTIM_ROOT"
)

// victim pulls, mounts, unmounts and removes until it is killed.
func victim(ref string) int {
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
			killVictim(root, ref, time.Duration(rng.Intn(250))*time.Millisecond)
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
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(root))
	})
})

// killVictim starts a child on root and kills it some time after it is ready.
func killVictim(root, ref string, after time.Duration) {
	GinkgoHelper()
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), victimRef+"="+ref, victimRoot+"="+root)
	cmd.Stderr = GinkgoWriter
	out, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	_, err = out.Read(make([]byte, 16))
	Expect(err).NotTo(HaveOccurred())
	time.Sleep(after) // the moment of the kill is the point
	Expect(cmd.Process.Kill()).To(Succeed())
	err = cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	Expect(status.Signaled()).To(BeTrue(), "it ended by itself: %v", err)
}
