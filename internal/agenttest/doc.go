// Package agenttest runs a node agent's program as its users do, in a network
// namespace of its own with a node address and a default route, and looks at it
// from outside: over HTTP, in its logs, in /proc.
package agenttest
