//go:build !faultpoints

package oci

// faultPoint names a moment at which the kill tests, in builds of their own,
// end this process or another.
func faultPoint(string) {}

func faultEnv() []string { return nil }
