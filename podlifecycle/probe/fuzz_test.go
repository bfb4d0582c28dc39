package probe

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// In the package: only a server could bring these bytes here from outside.
func FuzzHealthStatus(f *testing.F) {
	for _, seed := range []string{"", "\x00\x00\x00\x00\x02\x08\x01", "\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x07\x12\x01a\x08\x01\x18\x00", "\x01\x00\x00\x00\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		status, err := healthStatus(frame)
		if err != nil && status != 0 && status != serving {
			return // a number before the malformed part
		}
		if err == nil && len(frame) == 5 && status != 0 {
			t.Fatalf("status %d of an empty message", status)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add("/", "X-A", "b", "10.0.0.1:80")
	f.Add("//host/x?y#z", "Host", "a\r\nb", "[::1]:80")
	f.Add("a:b", "User-Agent", "", "x:1")
	f.Add("http://elsewhere/", "", "", "h:1")
	f.Fuzz(func(t *testing.T, path, name, value, address string) {
		action := &corev1.HTTPGetAction{Path: path, HTTPHeaders: []corev1.HTTPHeader{{Name: name, Value: value}}}
		request, err := newRequest(t.Context(), action, address, "agent")
		if err == nil && request.URL.Host != address {
			t.Fatalf("path %q makes the request go to %q instead of %q", path, request.URL.Host, address)
		}
	})
}
