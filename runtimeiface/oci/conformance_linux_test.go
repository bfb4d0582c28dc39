package oci_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// foreign are needs of cases that are not about this backend.
var foreign = map[runtimetest.Need]string{
	runtimetest.Daemon: "there is no daemon",
}

// pending are promises that this backend does not keep yet. One that is kept fails
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
	"exec/resize":                    "terminals",
	"exec/terminal":                  "terminals",
	"forward/both loopbacks":         "PortForward",
	"forward/cancelled":              "PortForward",
	"forward/client's end":           "PortForward",
	"forward/large":                  "PortForward",
	"forward/nobody listens":         "PortForward",
	"forward/not running":            "PortForward",
	"forward/pod's end":              "PortForward",
	"forward/pod's own":              "PortForward",
	"forward/several":                "PortForward",
	"image/file system":              "ImageFilesystem",
	"namespace/bad target":           "PID target",
	"namespace/target":               "PID target",
	"process/OOM of a child":         "only an OOM kill that ends the container is told",
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
}

var _ = Describe("the promises of runtimeiface", Ordered, ContinueOnFailure, func() {
	var e *env
	BeforeAll(func() { e = newEnv(GinkgoTB()) })

	for _, c := range runtimetest.Cases() {
		It(c.Name, func(ctx SpecContext) {
			for _, need := range c.Needs {
				if why, ok := foreign[need]; ok {
					Skip(why)
				}
			}
			subject := runtimetest.Subject{
				Runtime: e.rt, Images: e.images, LogRoot: e.logs, Kernel: true, UserNS: true, Seccomp: true,
				Restart: func(context.Context) (runtimeiface.Runtime, error) { e.reopen(); return e.rt, nil },
				KillKeeper: func(ctx context.Context, id string) error {
					s, err := e.rt.SandboxStatus(ctx, id)
					if err != nil {
						return err
					}
					return unix.Kill(s.PID, unix.SIGKILL)
				},
			}
			if missing := subject.Missing(c); len(missing) > 0 {
				Fail("the subject lacks " + strings.Join(needNames(missing), ", "))
			}
			err := c.Run(ctx, subject)
			if why, ok := pending[c.Name]; ok {
				Expect(err).To(HaveOccurred(), "the promise is kept; it was declared as pending: "+why)
				Skip("pending: " + why)
			}
			Expect(err).NotTo(HaveOccurred(), c.Promise)
		}, NodeTimeout(2*time.Minute))
	}

	It("has nothing declared as pending that is no promise", func() {
		names := map[string]bool{}
		for _, c := range runtimetest.Cases() {
			names[c.Name] = true
		}
		for name := range pending {
			Expect(names).To(HaveKey(name))
		}
	})
})

func needNames(needs []runtimetest.Need) []string {
	var names []string
	for _, n := range needs {
		names = append(names, string(n))
	}
	return names
}
