package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/podlifecycle"
)

// What the example manifests promise.
const (
	exampleVIP      = "10.96.0.10:80"
	exampleNodePort = "30080"
)

var (
	examplePods = []string{"client", "web-1", "web-2"}
	exampleWeb  = []string{"web-1", "web-2"}
)

// check looks at the node as a user would, from outside: it calls the Service
// and asks the status server.
type check struct {
	o       options
	screen  *screen
	manager *podlifecycle.Manager
	client  http.Client
}

func newCheck(o options, screen *screen, manager *podlifecycle.Manager) *check {
	return &check{o: o, screen: screen, manager: manager, client: http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true}, // each call is a new choice of the rules
	}}
}

// run makes each step until it goes well or the time is over; the error says
// which step did not, and why.
func (c *check) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.timeout)
	defer cancel()
	for _, step := range []struct {
		what string
		look func(context.Context) (string, error)
	}{
		{"the example pods are ready", c.pods},
		{"the Service answers at its virtual IP", func(ctx context.Context) (string, error) { return c.service(ctx, exampleVIP) }},
		{"the Service answers at its node port", c.nodePort},
		{"the client pod reached both", c.clientLog},
		{"every container is metered", c.metered},
		{"the page is served", c.page},
	} {
		said, err := step.look(ctx)
		for err != nil {
			select {
			case <-ctx.Done():
				if errors.Is(ctx.Err(), context.Canceled) {
					return fmt.Errorf("check: ended early, before this was seen: %s: %w", step.what, err)
				}
				return fmt.Errorf("check: not within %v: %s: %w", c.o.timeout, step.what, err)
			case <-time.After(50 * time.Millisecond):
				said, err = step.look(ctx)
			}
		}
		c.screen.say("seen: %s: %s", step.what, said)
	}
	return nil
}

func (c *check) pods(context.Context) (string, error) {
	var errs []error
	var said []string
	for _, name := range examplePods {
		pod, err := c.manager.Pod("default", name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
			return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		}) {
			why, err := c.manager.Why("default", name)
			errs = append(errs, fmt.Errorf("%s: %s", name, why.Summary), err)
			continue
		}
		said = append(said, name+" at "+pod.Status.PodIP)
	}
	return strings.Join(said, ", "), errors.Join(errs...)
}

func (c *check) get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// service calls until each web pod has answered.
func (c *check) service(ctx context.Context, address string) (string, error) {
	count := map[string]int{}
	for range 40 {
		answer, err := c.get(ctx, "http://"+address+"/")
		if errors.Is(err, syscall.ENETUNREACH) {
			err = fmt.Errorf("%w: a machine calls a virtual IP only if it has a route for it, such as a default one", err)
		}
		if err != nil {
			return "", err
		}
		who, _, _ := strings.Cut(answer, " ")
		count[who]++
	}
	for _, name := range exampleWeb {
		if count[name] == 0 {
			return "", fmt.Errorf("%s never answered at %s: %v", name, address, count)
		}
	}
	return fmt.Sprintf("%s answered by %v", address, count), nil
}

func (c *check) nodePort(ctx context.Context) (string, error) {
	node, err := look(c.o)
	if err != nil {
		return "", err
	}
	if len(node.addresses) == 0 {
		return "skipped, this machine has no address beside loopback", nil
	}
	return c.service(ctx, net.JoinHostPort(node.addresses[0].String(), exampleNodePort))
}

func (c *check) clientLog(ctx context.Context) (string, error) {
	text, err := c.get(ctx, "http://"+c.o.listen+"/containerLogs/default/client/client?tailLines=100")
	if err != nil {
		return "", err
	}
	for _, name := range exampleWeb {
		if !strings.Contains(text, "answered by "+name) {
			return "", fmt.Errorf("no answer by %s in its log", name)
		}
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1], nil
}

func (c *check) metered(ctx context.Context) (string, error) {
	text, err := c.get(ctx, "http://"+c.o.listen+"/stats/summary")
	if err != nil {
		return "", err
	}
	var summary stats.Summary
	if err := json.Unmarshal([]byte(text), &summary); err != nil {
		return "", err
	}
	var said []string
	for _, pod := range summary.Pods {
		for _, container := range pod.Containers {
			if container.CPU == nil || container.CPU.UsageNanoCores == nil || container.Memory == nil || container.Memory.WorkingSetBytes == nil {
				return "", fmt.Errorf("%s/%s has no CPU rate or memory yet", pod.PodRef.Name, container.Name)
			}
			said = append(said, fmt.Sprintf("%s/%s %.1f m, %.1f MB", pod.PodRef.Name, container.Name,
				float64(*container.CPU.UsageNanoCores)/1e6, float64(*container.Memory.WorkingSetBytes)/1e6))
		}
	}
	if len(summary.Pods) < len(examplePods) {
		return "", fmt.Errorf("%d pods are metered, not %d", len(summary.Pods), len(examplePods))
	}
	return strings.Join(said, "; "), nil
}

func (c *check) page(ctx context.Context) (string, error) {
	text, err := c.get(ctx, "http://"+c.o.listen+"/ui/")
	if err == nil && !strings.Contains(text, "<html") {
		err = errors.New("no HTML at /ui/")
	}
	return "http://" + c.o.listen + "/ui/", err
}
