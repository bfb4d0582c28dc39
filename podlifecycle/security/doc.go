// Package security is a part of podlifecycle.
package security
