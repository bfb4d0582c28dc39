// Package manifest is a part of podlifecycle.
package manifest
