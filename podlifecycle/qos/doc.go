// Package qos is a part of podlifecycle.
package qos
