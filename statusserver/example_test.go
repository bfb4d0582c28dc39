package statusserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/statusserver"
)

func Example() {
	bound := make(chan []net.Addr, 1)
	server, err := statusserver.New(statusserver.Config{
		Listeners: []statusserver.Listener{statusserver.LoopbackListener(0)},
		OnListen:  func(addrs []net.Addr) { bound <- addrs },
		Pods: statusserver.PodsFunc(func(context.Context) (*corev1.PodList, error) {
			return &corev1.PodList{Items: []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}}}, nil
		}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }()

	for _, path := range []string{"/healthz?verbose", "/spec"} {
		response, err := http.Get(fmt.Sprintf("http://%s%s", first(bound), path))
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		fmt.Printf("%d %s\n", response.StatusCode, body)
	}
	cancel()
	fmt.Println(<-ended)
	// Output:
	// 200 [+]ping ok
	// healthz check passed
	//
	// 404 /spec is not wired: this agent gave the status server no Spec
	//
	// <nil>
}

// first gives the first address, each time it is asked.
func first(bound chan []net.Addr) net.Addr {
	addrs := <-bound
	bound <- addrs
	return addrs[0]
}

func ExampleNew_withoutAuthorizer() {
	_, err := statusserver.New(statusserver.Config{
		Listeners: []statusserver.Listener{{Address: "0.0.0.0:10255"}},
	})
	fmt.Println(err)
	// Output:
	// status server config: field Listeners[0]: no authorizer: say who may ask, for example LoopbackOnly{}
}
