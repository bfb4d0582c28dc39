// Package source is a part of podlifecycle.
package source
