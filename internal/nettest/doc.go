// Package nettest gives tests machines on a network: network namespaces with
// links, addresses and routes, which answer who they are and whom they see.
package nettest
