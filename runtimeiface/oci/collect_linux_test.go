package oci_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("the images of a node", func() {
	all := image.CollectPolicy{FreeBytes: math.MaxInt64, MinAge: time.Nanosecond}

	It("are collected, save those of containers, and counted", func() {
		e := newEnv(GinkgoTB())
		sb := e.sandbox()
		id := e.start(sb, "app", "print ready ; forever")
		spare := e.pull(e.images.Spare)

		dry := all
		dry.DryRun = true
		plan, err := e.rt.CollectImages(e.ctx(), dry)
		Expect(err).NotTo(HaveOccurred())
		by := map[string]image.ImageUse{}
		for _, u := range plan.Images {
			by[u.ID] = u
		}
		Expect(by).To(HaveLen(2))
		Expect(by[e.image].Kept).To(Equal(image.KeptInUse))
		Expect(by[e.image].Containers).To(Equal([]string{id}))
		Expect(by[spare].Kept).To(BeEmpty())
		before, err := e.rt.ImageFilesystem(e.ctx())
		Expect(err).NotTo(HaveOccurred())
		Expect(before.Path).To(Equal(filepath.Join(e.cfg.Root, "images")))
		Expect(before.UsedBytes).To(BeNumerically(">", 0))
		Expect(before.CapacityBytes).To(BeNumerically(">", before.AvailableBytes))

		done, err := e.rt.CollectImages(e.ctx(), all)
		Expect(err).NotTo(HaveOccurred())
		Expect(done.Freed).To(Equal(plan.Freed))
		_, err = e.rt.ImageStatus(e.ctx(), spare)
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
		after, err := e.rt.ImageFilesystem(e.ctx())
		Expect(err).NotTo(HaveOccurred())
		Expect(before.UsedBytes - after.UsedBytes).To(Equal(done.Freed))
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))

		e.reopen()
		Expect(e.rt.CollectImages(e.ctx(), all)).To(HaveField("Freed", BeZero()))
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		done, err = e.rt.CollectImages(e.ctx(), all)
		Expect(err).NotTo(HaveOccurred())
		Expect(done.Freed).To(Equal(after.UsedBytes))
		Expect(e.rt.ListImages(e.ctx())).To(BeEmpty())
	})

	It("come from private registries with the credentials of a file, and a pull's own win", func() {
		e := prepareEnv(GinkgoTB())
		host, _, _ := strings.Cut(e.images.Private, "/")
		file := filepath.Join(GinkgoT().TempDir(), "config.json")
		write := func(user, password string) {
			Expect(os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, host, user, password), 0o644)).To(Succeed())
		}
		write("nobody", "wrong")
		e.cfg.Images.AuthFiles = []string{file}
		e.open()
		pull := func(auth *runtimeiface.Auth) error {
			_, err := e.rt.PullImage(e.ctx(), runtimeiface.ImageSpec{Ref: e.images.Private, Auth: auth}, nil)
			return err
		}
		Expect(pull(nil)).To(MatchError(runtimeiface.ErrUnauthorized))
		right := e.images.PrivateAuth
		Expect(pull(right)).To(Succeed())
		write(right.Username, right.Password)
		Expect(pull(nil)).To(Succeed(), "the file is read anew")
		Expect(pull(&runtimeiface.Auth{Username: right.Username, Password: "wrong"})).To(MatchError(runtimeiface.ErrUnauthorized))
	})

	It("come from mirrors, under the registry's name", func() {
		e := prepareEnv(GinkgoTB())
		host, rest, _ := strings.Cut(e.images.Prog, "/")
		e.cfg.Images.Mirrors = map[string][]image.Mirror{"registry.example": {{Host: "127.0.0.1:1"}, {Host: host}}}
		e.open()
		img, err := e.rt.PullImage(e.ctx(), runtimeiface.ImageSpec{Ref: "registry.example/" + rest}, nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(img.Tags).To(Equal([]string{"registry.example/" + rest}))
		e.image = img.ID
		Expect(e.exited(e.start(e.sandbox(), "app", "exit 3")).ExitCode).To(BeEquivalentTo(3))
	})

	It("are not what a container writes, which is told apart", func() {
		e := newEnv(GinkgoTB())
		sb := e.sandbox()
		idle := e.start(sb, "idle", "print ready ; forever")
		id := e.start(sb, "app", "write /f "+strings.Repeat("x", 100_000)+" ; print ready ; forever")
		Eventually(func() string { return e.log(e.status(id)) }, "1m", "20ms").Should(ContainSubstring("ready"))
		less, err := e.rt.ContainerFilesystem(e.ctx(), idle)
		Expect(err).NotTo(HaveOccurred())
		more, err := e.rt.ContainerFilesystem(e.ctx(), id)
		Expect(err).NotTo(HaveOccurred())
		Expect(more.UsedBytes - less.UsedBytes).To(BeNumerically(">=", 100_000))
		Expect(more.UsedInodes - less.UsedInodes).To(BeEquivalentTo(1))
		_, err = e.rt.ContainerFilesystem(e.ctx(), "nobody")
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	})

	It("want a Config whose bad fields are told together, before anything is made", func() {
		root := filepath.Join(GinkgoT().TempDir(), "root")
		_, err := oci.Open(oci.Config{Root: root, ShmBytes: -1, Images: image.Config{
			AuthFiles: []string{"config.json"}, Mirrors: map[string][]image.Mirror{"reg.example": {{Host: "a b"}}}, MinFreeBytes: -1}})
		for _, field := range []string{"ShmBytes", "Images: ", "AuthFiles[0]", `Mirrors["reg.example"][0].Host`, "MinFreeBytes"} {
			Expect(err).To(MatchError(ContainSubstring(field)))
		}
		Expect(root).NotTo(BeADirectory())
	})
})
