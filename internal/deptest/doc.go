// Package deptest holds the module to its own architecture: which package may
// import which, which third-party module each may use and why, and how much the
// five front packages may weigh. The rules are data in rules.go; the tests
// compare them with what `go list` says of the source tree.
package deptest
