// Package hostfiles is a part of podlifecycle.
package hostfiles
