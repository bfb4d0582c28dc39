// Package volume is a part of podlifecycle.
package volume
