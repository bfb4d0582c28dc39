package proxyhealth_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
)

func ExampleServer_Handler() {
	health, err := proxyhealth.New(proxyhealth.Config{Proxy: newFakeProxy(), Mode: "nftables"}) // a *proxyrules.Proxy
	if err != nil {
		fmt.Println(err)
		return
	}
	// go health.Run(ctx)
	for _, path := range []string{"/healthz", "/proxyMode"} {
		answer := httptest.NewRecorder()
		health.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(path, answer.Code)
	}
	// Output:
	// /healthz 200
	// /proxyMode 200
}
