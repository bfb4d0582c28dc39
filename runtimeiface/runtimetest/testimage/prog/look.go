package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// look does the steps that look at the kernel's work.
func look(verb string, args []string, arg func(int) string) error {
	switch verb {
	case "cat":
		data, err := os.ReadFile(arg(0))
		if err != nil {
			return err
		}
		return out(string(data))
	case "ls":
		return ls(arg(0))
	case "write":
		return os.WriteFile(arg(0), []byte(arg(1)), 0o644)
	case "append":
		return appendTo(arg(0), arg(1))
	case "count":
		gap, err := time.ParseDuration(arg(1))
		for err == nil {
			err = appendTo(arg(0), ".")
			time.Sleep(gap)
		}
		return err
	case "now":
		return out(strconv.FormatInt(time.Now().UnixNano(), 10) + "\n")
	case "ids":
		return ids()
	case "chown":
		uid, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		gid, err := strconv.Atoi(arg(2))
		if err != nil {
			return err
		}
		return os.Chown(arg(0), uid, gid)
	case "ps":
		return ps()
	case "spawn":
		return child(args).Start()
	case "run":
		return waited(args)
	case "orphan":
		return orphan(args)
	case "await":
		for {
			if _, err := os.Stat(arg(0)); err == nil {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "mkdir":
		return os.Mkdir(arg(0), 0o755)
	case "open":
		f, err := os.Open(arg(0))
		if err != nil {
			return err
		}
		return f.Close()
	case "link":
		return told(os.Readlink(arg(0)))
	case "mknod", "mount", "owner", "try":
		return ask(verb, args, arg)
	case "serve", "greet", "collect":
		return serve(verb, arg(0), arg(1))
	case "dial":
		return dial(arg(0), arg(1))
	case "burn":
		return burn(arg(0))
	}
	return fmt.Errorf("no such step")
}

func ls(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err := out(e.Name() + "\n"); err != nil {
			return err
		}
	}
	return err
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func ids() error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	text := fmt.Sprint(os.Getuid(), os.Getgid())
	for _, g := range groups {
		text += " " + strconv.Itoa(g)
	}
	return out(text + "\n")
}

// ps prints "PID ARGUMENTS..." of each process.
func ps() error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || len(data) == 0 {
			continue // gone meanwhile, or of the kernel
		}
		line := filepath.Base(filepath.Dir(f)) + " " + strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " ")
		if err := out(line + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// waited tells how a child ended.
func waited(args []string) error {
	cmd := child(args)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return err
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && cmd.ProcessState.ExitCode() < 0 {
		return out(fmt.Sprintf("signal %d\n", signalOf(s)))
	}
	return out(fmt.Sprintf("exit %d\n", cmd.ProcessState.ExitCode()))
}

// orphan leaves the child of a child that is gone.
func orphan(args []string) error {
	cmd := child(append([]string{"spawn"}, args...))
	for i, a := range cmd.Args {
		if a == ";" {
			cmd.Args[i] = "," // for spawn to translate
		}
	}
	ownSession(cmd)
	return cmd.Run()
}

func serve(verb, address, text string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if err := out("serving\n"); err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if verb == "greet" {
				_, _ = io.WriteString(conn, text)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				return
			}
			var heard io.Reader = conn
			if verb == "collect" {
				all, _ := io.ReadAll(conn)
				heard = bytes.NewReader(all)
			}
			_, _ = io.Copy(conn, heard)
		}()
	}
}

func dial(address, text string) error {
	conn, err := net.DialTimeout("tcp", address, 3*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	answer := make([]byte, len(text))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	return out(string(answer) + "\n")
}
