package statusserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/statusserver"
)

var _ = Describe("/containerLogs", func() {
	It("writes both streams", func(ctx SpecContext) {
		a := get(ctx, serveOne(full())+"/containerLogs/default/web-0/main")
		Expect(a.status).To(Equal(http.StatusOK))
		Expect(a.header.Get("Content-Type")).To(Equal("text/plain; charset=utf-8"))
		Expect(a.body).To(Equal("out\nerr\n"))
	})

	DescribeTable("hands on what is asked for",
		func(ctx SpecContext, query string, want *corev1.PodLogOptions) {
			config := full()
			var got *corev1.PodLogOptions
			config.Logs = statusserver.LogsFunc(func(_ context.Context, _, _, _ string, opts *corev1.PodLogOptions, _, _ io.Writer) error {
				got = opts
				return nil
			})
			a := get(ctx, serveOne(config)+"/containerLogs/default/web-0/main"+query)
			if want == nil {
				Expect(a.status).To(Equal(http.StatusUnprocessableEntity), a.body)
				Expect(got).To(BeNil())
				return
			}
			Expect(a.status).To(Equal(http.StatusOK), a.body)
			want.Container = "main"
			Expect(got).To(Equal(want))
		},
		Entry("nothing", "", &corev1.PodLogOptions{}),
		Entry("all of it", "?follow=true&previous=true&timestamps=1&tailLines=0&sinceSeconds=1&limitBytes=1&stream=All", &corev1.PodLogOptions{
			Follow: true, Previous: true, Timestamps: true, TailLines: ptr[int64](0), SinceSeconds: ptr[int64](1),
			LimitBytes: ptr[int64](1), Stream: ptr("All"),
		}),
		Entry("flags without value", "?follow&timestamps=", &corev1.PodLogOptions{Follow: true, Timestamps: true}),
		Entry("flags that are off", "?follow=false&previous=0", &corev1.PodLogOptions{}),
		Entry("since a time", "?sinceTime=2024-01-02T03:04:05.6Z", &corev1.PodLogOptions{
			SinceTime: &metav1.Time{Time: time.Date(2024, 1, 2, 3, 4, 5, 6e8, time.UTC)},
		}),
		Entry("one stream", "?stream=Stderr", &corev1.PodLogOptions{Stream: ptr("Stderr")}),
		Entry("follow what?", "?follow=maybe", nil),
		Entry("a negative tail", "?tailLines=-1", nil),
		Entry("no number", "?tailLines=ten", nil),
		Entry("a number too large", "?limitBytes=9223372036854775808", nil),
		Entry("since zero seconds", "?sinceSeconds=0", nil),
		Entry("limit zero", "?limitBytes=0", nil),
		Entry("no time", "?sinceTime=yesterday", nil),
		Entry("two beginnings", "?sinceSeconds=1&sinceTime=2024-01-02T03:04:05Z", nil),
		Entry("an unknown stream", "?stream=stdout", nil),
		Entry("the tail of one stream", "?stream=Stdout&tailLines=1", nil),
	)

	It("flushes each line while following, and ends when the client goes away", func(ctx SpecContext) {
		config := full()
		lines := make(chan string)
		ended := make(chan error, 1)
		config.Logs = statusserver.LogsFunc(func(ctx context.Context, _, _, _ string, _ *corev1.PodLogOptions, out, _ io.Writer) error {
			for {
				select {
				case line := <-lines:
					if _, err := io.WriteString(out, line); err != nil {
						return err
					}
				case <-ctx.Done():
					ended <- ctx.Err()
					return ctx.Err()
				}
			}
		})
		url := serveOne(config) + "/containerLogs/default/web-0/main?follow=true"
		requestCtx, leave := context.WithCancel(ctx)
		defer leave()
		request, err := http.NewRequestWithContext(requestCtx, http.MethodGet, url, nil)
		Expect(err).NotTo(HaveOccurred())
		go func() { lines <- "one\n" }()
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		reader := bufio.NewReader(response.Body)
		Expect(reader.ReadString('\n')).To(Equal("one\n"))
		lines <- "two\n"
		Expect(reader.ReadString('\n')).To(Equal("two\n"))
		leave()
		Eventually(ctx, ended).Should(Receive(MatchError(context.Canceled)))
	})

	It("gives an error before the first byte its status, and tears the stream after it", func(ctx SpecContext) {
		config := full()
		config.Logs = statusserver.LogsFunc(func(_ context.Context, _, pod, _ string, _ *corev1.PodLogOptions, out, _ io.Writer) error {
			if pod == "gone" {
				return fmt.Errorf("pod: %w", statusserver.ErrNotFound)
			}
			_, _ = io.WriteString(out, "half")
			return errors.New("disk error")
		})
		url := serveOne(config)
		a := get(ctx, url+"/containerLogs/default/gone/main")
		Expect(a.status).To(Equal(http.StatusNotFound))
		Expect(a.body).To(Equal("logs of container main of pod default/gone: pod: not found\n"))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/containerLogs/default/web-0/main?follow=true", nil)
		Expect(err).NotTo(HaveOccurred())
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = response.Body.Close() }()
		data, err := io.ReadAll(response.Body)
		Expect(string(data)).To(Equal("half"))
		Expect(err).To(MatchError(io.ErrUnexpectedEOF))
	})
})
