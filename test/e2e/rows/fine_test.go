package rows_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func init() { rows = append(rows, fine) }

// otherClass is a runtime class beside the default one.
const otherClass = "second"

func fine(n *node) {
	It("has the groups that it asks for", func() {
		Expect(n.prints("groups", "ids", "\n  securityContext: {runAsUser: 1000, runAsGroup: 1000, supplementalGroups: [7777]}")).To(MatchRegexp(`^1000 1000.* 7777`))
	})

	It("shares the node's IPC namespace if it may", func() {
		ours, err := os.Readlink("/proc/self/ns/ipc")
		Expect(err).NotTo(HaveOccurred())
		Expect(n.prints("ipc", "link /proc/self/ns/ipc", "\n  hostIPC: true")).To(Equal(ours + "\n"))
		Expect(n.prints("own-ipc", "link /proc/self/ns/ipc", "")).NotTo(Equal(ours + "\n"))
	})

	It("sees all of /proc if it may, with users of its own", func() {
		const context = "securityContext: {procMount: %s}"
		Expect(n.prints("masked", "cat /proc/self/mountinfo", "\n  hostUsers: false", fmt.Sprintf(context, "Default"))).To(ContainSubstring(" /proc/sys "))
		Expect(n.prints("unmasked", "cat /proc/self/mountinfo", "\n  hostUsers: false", fmt.Sprintf(context, "Unmasked"))).NotTo(ContainSubstring(" /proc/sys "))
	})

	It("is called by its whole name if it says so", func() {
		const name = "\n  hostname: me\n  subdomain: us"
		Expect(n.prints("short", "hostname", name)).To(Equal("me\n"))
		Expect(n.prints("whole", "hostname", name+"\n  setHostnameAsFQDN: true")).To(HavePrefix("me.us.default.svc"))
	})

	It("has files with the mode that its volume says", func() {
		n.settings("red")
		const rest = "\n  securityContext: {runAsUser: 1000}\n  volumes: [{name: open, configMap: {name: settings}}, {name: shut, configMap: {name: settings, defaultMode: 0400}}, " +
			"{name: part, configMap: {name: settings, defaultMode: 0400, items: [{key: color, path: color, mode: 0444}]}}]"
		got := n.prints("modes", "run cat /open/color ; run cat /shut/color ; run cat /part/color", rest,
			"volumeMounts: [{name: open, mountPath: /open}, {name: shut, mountPath: /shut}, {name: part, mountPath: /part}]")
		Expect(got).To(MatchRegexp(`(?s)redexit 0\n.*exit 1\n.*redexit 0\n`))
	})

	It("does without the variables of Services if it says so", func() {
		n.write("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n")
		Expect(n.prints("links", "run env FRONT_SERVICE_HOST", "")).To(ContainSubstring("10.96.0.10\n"))
		Expect(n.prints("no-links", "run env FRONT_SERVICE_HOST", "\n  enableServiceLinks: false")).To(ContainSubstring("exit 1\n"))
	})

	It("cannot write below a mount of a volume that it may only read, if it says so", func() {
		dir := filepath.Join(n.dir, "deep")
		Expect(os.MkdirAll(filepath.Join(dir, "sub"), 0o777)).To(Succeed())
		Expect(unix.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", 0, "")).To(Succeed())
		DeferCleanup(func() {
			n.clear()
			Expect(unix.Unmount(filepath.Join(dir, "sub"), 0)).To(Succeed())
			Expect(os.RemoveAll(dir)).To(Succeed())
		})
		got := n.prints("deep", "run write /r/sub/f x ; run write /rr/sub/f x", "\n  volumes: [{name: v, hostPath: {path: "+dir+", type: Directory}}]",
			"volumeMounts: [{name: v, mountPath: /r, readOnly: true}, {name: v, mountPath: /rr, readOnly: true, recursiveReadOnly: Enabled}]")
		Expect(got).To(MatchRegexp(`(?s)exit 0\n.*exit 1\n`))
	})

	It("is run by the class that it names, or told that there is none", func() {
		Expect(n.prints("class", "print here", "\n  runtimeClassName: "+otherClass)).To(Equal("here\n"))
		n.apply("no-class", "runtimeClassName: nobody\n  containers: ["+n.does("app", "forever")+"]")
		Eventually(n.tell, patience).WithArguments("no-class").Should(ContainSubstring("nobody"))
		Expect(n.pod("no-class").Status.Phase).To(Equal(corev1.PodPending))
	})

	It("asks by HTTP before it is told to end, if its hook does", func() {
		listener, err := net.Listen("tcp", net.JoinHostPort(nodeIP.String(), "0"))
		Expect(err).NotTo(HaveOccurred())
		asked := make(chan string, 10)
		server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path + " " + r.Header.Get("Why") })}
		go func() { _ = server.Serve(listener) }()
		DeferCleanup(server.Close)
		n.apply("asks", "containers: ["+n.does("app", "forever", fmt.Sprintf("lifecycle: {preStop: {httpGet: {host: %s, port: %d, path: /bye, httpHeaders: [{name: Why, value: end}]}}}",
			nodeIP, listener.Addr().(*net.TCPAddr).Port))+"]")
		n.untilReady("asks")
		n.clear()
		Expect(asked).To(Receive(Equal("/bye end")))
	})
}
