// Package probe is a part of podlifecycle.
package probe
