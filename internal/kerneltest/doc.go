// Package kerneltest gives tests a kernel to break: network namespaces and
// cgroups of their own, and needs that are declared instead of guessed.
//
// A test names what it needs:
//
//	kerneltest.Require(t, kerneltest.Root, kerneltest.Nft)
//
// A need that the machine lacks skips the test with a reason. Listed in the
// environment variable NODEKIT_REQUIRE (comma separated, or "all"), the same
// lack is a failure, so that CI cannot pass by skipping. NODEKIT_NEEDS=none
// declares every need absent: the unit tier on a machine that has everything.
package kerneltest
