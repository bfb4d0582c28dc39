//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
)

func ask(string, []string, func(int) string) error { return errors.ErrUnsupported }

func isTTY() bool { return false }

func sizes() error { return errors.ErrUnsupported }

func ownSession(*exec.Cmd) {}

func signalOf(syscall.WaitStatus) int { return 0 }
