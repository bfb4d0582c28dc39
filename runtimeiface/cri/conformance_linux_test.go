package cri_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// beyond are promises that a CRI, or containerd v2.4.2, has no means to keep.
var beyond = map[string]string{
	"mount/tmpfs":     "the CRI's Mount is a path of the host; it is ErrNotSupported here",
	"image/two names": "the CRI removes all names of an image together; one of several is ErrNotSupported here",
}

// pending are promises that this adapter does not keep yet. One that is kept fails
// here until it is taken off the list.
var pending = map[string]string{
	"attach/large":                   "Attach",
	"attach/leaves":                  "Attach",
	"attach/leaves with stdin once":  "Attach",
	"attach/no stdin":                "Attach",
	"attach/not running":             "Attach",
	"attach/output":                  "Attach",
	"attach/resize":                  "Attach",
	"attach/several":                 "Attach",
	"attach/stdin again":             "Attach",
	"attach/stdin once":              "Attach",
	"attach/terminal":                "Attach",
	"cancel/every call":              "the calls that are pending do not look at ctx",
	"cancel/half way together":       "RunContainers",
	"exec/output cap":                "ExecSync of 16 MiB does not fit into a message",
	"exec/resize":                    "terminals",
	"exec/terminal":                  "terminals",
	"exec/time-out keeps output":     "ExecSync gives output at the end alone",
	"exec/time-out kills orphans":    "descendants are found by their parents",
	"forward/both loopbacks":         "PortForward",
	"forward/cancelled":              "PortForward",
	"forward/client's end":           "PortForward",
	"forward/large":                  "PortForward",
	"forward/nobody listens":         "PortForward",
	"forward/not running":            "PortForward",
	"forward/pod's end":              "PortForward",
	"forward/pod's own":              "PortForward",
	"forward/several":                "PortForward",
	"image volume/files":             "mounts of images",
	"image volume/in use":            "mounts of images",
	"image volume/refused":           "mounts of images",
	"image volume/subpath":           "mounts of images",
	"image volume/userns":            "mounts of images",
	"image/file system":              "ImageFilesystem",
	"keeper/killed":                  "containerd tells 255 of what its shim took along",
	"namespace/bad target":           "PID target",
	"namespace/target":               "PID target",
	"restart/attach":                 "Attach, PortForward, UpdateContainer",
	"together/all":                   "RunContainers",
	"together/at once":               "RunContainers",
	"together/exited":                "RunContainers",
	"together/one cannot be created": "RunContainers",
	"together/one cannot be started": "RunContainers",
	"together/same identity":         "RunContainers",
	"together/sandbox":               "RunContainers",
	"update/created":                 "UpdateContainer",
	"update/not running":             "UpdateContainer",
	"update/running":                 "UpdateContainer",
	"userns/IDs":                     "UserNamespace",
	"userns/node's":                  "UserNamespace",
}

var _ = Describe("the promises of runtimeiface, with containerd", Ordered, ContinueOnFailure, func() {
	var n *node
	BeforeAll(func() { n = newNode(GinkgoTB()) })

	for _, c := range runtimetest.Cases() {
		It(c.Name, func(ctx SpecContext) {
			subject := runtimetest.Subject{
				Runtime: n.rt, Images: n.images, LogRoot: n.logs, Kernel: true, UserNS: true, Seccomp: true,
				RestartDaemon: func(context.Context) error { n.kill(); n.daemonStart(); return nil },
				KillKeeper:    func(_ context.Context, id string) error { return n.killShim(id) },
				Restart:       func(context.Context) (runtimeiface.Runtime, error) { n.restart(); return n.rt, nil },
			}
			if missing := subject.Missing(c); len(missing) > 0 {
				Fail("the subject lacks needs of the case")
			}
			err := c.Run(ctx, subject)
			if why, ok := pending[c.Name]; ok {
				Expect(err).To(HaveOccurred(), "the promise is kept; it was declared as pending: "+why)
				Skip("pending: " + why)
			}
			if why, ok := beyond[c.Name]; ok {
				Expect(err).To(HaveOccurred(), "the promise is kept; it was declared as beyond: "+why)
				Expect(err.Error()).To(ContainSubstring("not supported"))
				Skip(why)
			}
			Expect(err).NotTo(HaveOccurred(), c.Promise+"\n"+strings.TrimSpace(n.tail()))
		}, NodeTimeout(2*time.Minute))
	}

	It("has no promise declared as beyond or pending that is not one", func() {
		names := map[string]bool{}
		for _, c := range runtimetest.Cases() {
			names[c.Name] = true
		}
		for name := range beyond {
			Expect(names).To(HaveKey(name))
		}
		for name := range pending {
			Expect(names).To(HaveKey(name))
		}
	})
})
