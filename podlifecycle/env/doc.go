// Package env is a part of podlifecycle.
package env
