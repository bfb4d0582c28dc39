package source_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/source"
)

var _ = Describe("watching a directory", func() {
	var (
		path string
		mu   sync.Mutex
		sets [][]string // names of pods
	)
	latest := func() []string {
		mu.Lock()
		defer mu.Unlock()
		if len(sets) == 0 {
			return nil
		}
		return append([]string{}, sets[len(sets)-1]...)
	}

	BeforeEach(func(ctx context.Context) {
		path, sets = GinkgoT().TempDir(), nil
		dir, err := source.New(source.Config{Path: path, Reread: time.Hour})
		Expect(err).NotTo(HaveOccurred())
		running, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- dir.Run(running, func(set source.Set) {
				var names []string
				for _, pod := range set.Pods {
					names = append(names, pod.Name)
				}
				mu.Lock()
				defer mu.Unlock()
				sets = append(sets, names)
			})
		}()
		DeferCleanup(func() {
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		})
		Eventually(ctx, func() int { mu.Lock(); defer mu.Unlock(); return len(sets) }).Should(Equal(1))
	})

	It("never gives half of a file that is written in place", func(ctx context.Context) {
		name := filepath.Join(path, "both.yaml")
		for range 50 {
			mu.Lock()
			sets = nil
			mu.Unlock()
			began := time.Now()
			f, err := os.Create(name) // empties it, too
			Expect(err).NotTo(HaveOccurred())
			for _, part := range []string{podYAML("one", ""), "---\n", podYAML("two", "")} {
				_, err := f.WriteString(part)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(f.Close()).To(Succeed())
			took := time.Since(began)
			Eventually(ctx, latest).Should(Equal([]string{"one", "two"}))
			Expect(os.Remove(name)).To(Succeed())
			Eventually(ctx, latest).Should(BeEmpty())
			if took < 100*time.Millisecond { // who takes longer is read as he stands
				mu.Lock()
				given := slices.Clone(sets)
				mu.Unlock()
				Expect(given).To(HaveEach(Or(BeEmpty(), Equal([]string{"one", "two"}))))
			}
		}
	}, NodeTimeout(5*time.Minute))

	It("reads a file that is never closed", func(ctx context.Context) {
		f, err := os.Create(filepath.Join(path, "open.yaml"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(f.Close)
		_, err = f.WriteString(podYAML("open", ""))
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, latest).Should(Equal([]string{"open"}))
	}, NodeTimeout(5*time.Minute))

	It("sees links, and what they lead to swapped as a mounted ConfigMap is", func(ctx context.Context) {
		other := GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(other, "hard"), []byte(podYAML("hard", "")), 0o600)).To(Succeed())
		Expect(os.Link(filepath.Join(other, "hard"), filepath.Join(path, "a.yaml"))).To(Succeed())
		Eventually(ctx, latest).Should(Equal([]string{"hard"}))
		for _, version := range []string{"first", "second"} {
			Expect(os.Mkdir(filepath.Join(path, ".."+version), 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(path, ".."+version, "b.yaml"), []byte(podYAML(version, "")), 0o600)).To(Succeed())
			Expect(os.Symlink(".."+version, filepath.Join(path, "..data_tmp"))).To(Succeed())
			Expect(os.Rename(filepath.Join(path, "..data_tmp"), filepath.Join(path, "..data"))).To(Succeed())
			if version == "first" {
				Expect(os.Symlink("..data/b.yaml", filepath.Join(path, "b.yaml"))).To(Succeed())
			}
			Eventually(ctx, latest).Should(Equal([]string{"hard", version}))
		}
	}, NodeTimeout(5*time.Minute))
})
