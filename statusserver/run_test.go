package statusserver_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/statusserver"
)

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

var _ = Describe("Run", func() {
	It("listens nowhere unless asked to", func(ctx SpecContext) {
		before := goleak.IgnoreCurrent()
		server, err := statusserver.New(full())
		Expect(err).NotTo(HaveOccurred())
		runCtx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- server.Run(runCtx) }()
		Consistently(ended, "50ms").ShouldNot(Receive())
		cancel()
		Eventually(ctx, ended).Should(Receive(BeNil()))
		Expect(server.Run(ctx)).To(MatchError(ContainSubstring("started before")))
		Expect(goleak.Find(before)).To(Succeed())
	})

	It("serves a unix socket that is for its owner alone, and clears up a dead one", func(ctx SpecContext) {
		path := filepath.Join(GinkgoT().TempDir(), "s.sock")
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		Expect(err).NotTo(HaveOccurred())
		dead.SetUnlinkOnClose(false)
		Expect(dead.Close()).To(Succeed())

		asked := make(chan statusserver.Attributes, 1)
		config := full()
		config.Listeners = []statusserver.Listener{{Network: "unix", Address: path, Authorizer: statusserver.Every{
			statusserver.LoopbackOnly{}, statusserver.ReadOnly{}, witness{asked: asked},
		}}}
		serve(config)
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode()).To(Equal(fs.ModeSocket | 0o600))
		response, err := unixClient(path).Get("http://anything/healthz")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		Expect(response.StatusCode).To(Equal(http.StatusOK))
		var got statusserver.Attributes
		Expect(asked).To(Receive(&got))
		Expect(got.Unix).To(BeTrue())
		Expect(got.PeerUID).To(Equal(os.Geteuid()))

		// It is in use now.
		other, err := statusserver.New(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(other.Run(ctx)).To(MatchError(ContainSubstring("served by another process")))
	})

	It("removes nothing but sockets", func(ctx SpecContext) {
		path := filepath.Join(GinkgoT().TempDir(), "file")
		Expect(os.WriteFile(path, []byte("precious"), 0o600)).To(Succeed())
		server, err := statusserver.New(statusserver.Config{Listeners: []statusserver.Listener{
			{Network: "unix", Address: path, Authorizer: statusserver.LoopbackOnly{}},
		}})
		Expect(err).NotTo(HaveOccurred())
		Expect(server.Run(ctx)).To(MatchError(ContainSubstring("is no socket")))
		Expect(os.ReadFile(path)).To(BeEquivalentTo("precious"))
	})

	It("gives an error when one address is taken, and leaves the others free", func(ctx SpecContext) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = taken.Close() }()
		path := filepath.Join(GinkgoT().TempDir(), "s.sock")
		server, err := statusserver.New(statusserver.Config{Listeners: []statusserver.Listener{
			{Network: "unix", Address: path, Authorizer: statusserver.LoopbackOnly{}},
			{Address: taken.Addr().String(), Authorizer: statusserver.LoopbackOnly{}},
		}})
		Expect(err).NotTo(HaveOccurred())
		Expect(server.Run(ctx)).To(MatchError(ContainSubstring("address already in use")))
		Expect(path).NotTo(BeAnExistingFile())
	})

	It("serves TLS", func(ctx SpecContext) {
		certificate, pool := selfSigned()
		listener := statusserver.LoopbackListener(0)
		listener.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		config := full()
		config.Listeners = []statusserver.Listener{listener}
		addr := serve(config)[0]
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		client := http.Client{Transport: transport}
		response, err := client.Get("https://" + addr.String() + "/healthz")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		Expect(response.StatusCode).To(Equal(http.StatusOK))
		Expect(response.ProtoMajor).To(Equal(2))
	})

	It("ends streams at once and lets other answers finish", func(ctx SpecContext) {
		before := goleak.IgnoreCurrent()
		config := full()
		inside, goOn := make(chan struct{}), make(chan struct{})
		var cancelled atomic.Bool
		config.Spec = nil
		config.Metrics = statusserver.MetricsFunc(func(ctx context.Context, w io.Writer) error {
			close(inside)
			<-goOn
			cancelled.Store(ctx.Err() != nil)
			_, err := io.WriteString(w, "late 1\n")
			return err
		})
		config.Logs = statusserver.LogsFunc(func(ctx context.Context, _, _, _ string, _ *corev1.PodLogOptions, out, _ io.Writer) error {
			_, _ = io.WriteString(out, "line\n")
			<-ctx.Done()
			return ctx.Err()
		})
		bound := make(chan []net.Addr, 1)
		config.Listeners = []statusserver.Listener{statusserver.LoopbackListener(0)}
		config.OnListen = func(addrs []net.Addr) { bound <- addrs }
		server, err := statusserver.New(config)
		Expect(err).NotTo(HaveOccurred())
		runCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- server.Run(runCtx) }()
		url := "http://" + (<-bound)[0].String()

		late := make(chan answer, 1)
		go func() {
			defer GinkgoRecover()
			late <- get(ctx, url+"/metrics")
		}()
		Eventually(ctx, inside).Should(BeClosed())
		bodies := make(chan error, 2)
		for _, path := range []string{"/ui/events", "/containerLogs/default/web-0/main?follow=true"} {
			response, err := http.Get(url + path)
			Expect(err).NotTo(HaveOccurred())
			reader := bufio.NewReader(response.Body)
			Expect(reader.ReadString('\n')).NotTo(BeEmpty())
			go func() {
				_, err := io.Copy(io.Discard, reader)
				_ = response.Body.Close()
				bodies <- err
			}()
		}
		cancel()
		Eventually(ctx, bodies).Should(Receive(BeNil()), "streams end cleanly")
		Eventually(ctx, bodies).Should(Receive(BeNil()))
		Consistently(ended, "50ms").ShouldNot(Receive(), "an answer is under way")
		close(goOn)
		var a answer
		Eventually(ctx, late).Should(Receive(&a))
		Expect(a.body).To(Equal("late 1\n"))
		Expect(cancelled.Load()).To(BeFalse())
		Eventually(ctx, ended).Should(Receive(BeNil()))
		http.DefaultClient.CloseIdleConnections()
		Expect(goleak.Find(before)).To(Succeed())
	})
})

var _ = Describe("/ui/events", func() {
	// next reads one event.
	next := func(r *bufio.Reader) (name, data string) {
		GinkgoHelper()
		for {
			line, err := r.ReadString('\n')
			Expect(err).NotTo(HaveOccurred())
			switch line = strings.TrimSpace(line); {
			case line == "":
				return name, data
			case strings.HasPrefix(line, "event: "):
				name = line[7:]
			case strings.HasPrefix(line, "data: "):
				data = line[6:]
			}
		}
	}

	It("tells what is there, then what changed", func(ctx SpecContext) {
		config := full()
		var calls atomic.Int32
		var broken atomic.Bool
		config.Pods = statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) {
			calls.Add(1)
			if broken.Load() {
				return nil, errors.New("runtime is away")
			}
			return examplePods(), nil
		})
		config.Trace = nil
		url := serveOne(config) + "/ui/events"
		response, err := http.Get(url)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		Expect(response.Header.Get("Content-Type")).To(Equal("text/event-stream"))
		r := bufio.NewReader(response.Body)
		name, data := next(r)
		Expect(name).To(Equal("about"))
		Expect(data).To(ContainSubstring(`"node":"node-a","pods":true,"stats":true,"logs":true,"why":true,"trace":false`))
		name, data = next(r)
		Expect(name).To(Equal("pods"))
		Expect(data).To(MatchJSON(`[
			{"namespace":"default","name":"web-0","uid":"u0","phase":"Running","reason":"Running","ready":1,"total":1,"healthy":true,"restarts":2,"ip":"10.88.0.2",
			 "containers":[{"name":"main","kind":"app","image":"web:1","state":"running","ready":true,"restarts":2,"since":"1970-01-01T00:16:40Z"}]},
			{"namespace":"default","name":"job-0","uid":"u1","phase":"Pending","reason":"Pending","ready":0,"total":1,"healthy":false,"restarts":0,"ip":"",
			 "containers":[{"name":"main","kind":"app","image":"job:1","state":"waiting","ready":false,"restarts":0}]}]`))
		name, data = next(r)
		Expect(name).To(Equal("stats"))
		Expect(data).To(ContainSubstring(`"node":{"name":"node-a","cpu":0.25,"memory":67108864},"pods":[{"name":"web-0","namespace":"default","uid":"u0","cpu":0.1}]`))
		name, data = next(r)
		Expect(name).To(Equal("problems"))
		Expect(data).To(Equal("{}"))

		By("sharing one look among open pages")
		before := calls.Load()
		for range 20 {
			other, err := http.Get(url)
			Expect(err).NotTo(HaveOccurred())
			reader := bufio.NewReader(other.Body)
			for name := ""; name != "pods"; {
				name, _ = next(reader)
			}
			Expect(other.Body.Close()).To(Succeed())
		}
		Expect(calls.Load() - before).To(BeNumerically("<", 20))

		By("telling usage each second, the rest when it changed")
		name, _ = next(r)
		Expect(name).To(Equal("stats"))
		broken.Store(true)
		for name != "problems" {
			name, data = next(r)
			Expect(name).NotTo(Equal("pods"))
		}
		Expect(data).To(MatchJSON(`{"pods":"runtime is away"}`))
	})
})

func selfSigned() (tls.Certificate, *x509.CertPool) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	Expect(err).NotTo(HaveOccurred())
	certificate, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
