package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// writeSandbox puts the record on disk, and what containers will see.
func (r *Runtime) writeSandbox(s *sandbox) (lasting func() error, err error) {
	data, err := json.Marshal(s.sandboxRecord)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, shim.ContainersDir), 0o700); err != nil {
		return nil, err
	}
	faultPoint("sandbox directory made")
	if lasting, err = shim.WriteNew(s.dir, recordFile, data); err != nil {
		return nil, err
	}
	if s.CNI != nil { // plug-ins keep files of their own
		if err := lasting(); err != nil {
			return nil, err
		}
	}
	faultPoint("sandbox recorded")
	if s.spec.LogDirectory != "" {
		if err := os.MkdirAll(s.spec.LogDirectory, 0o755); err != nil {
			return nil, fmt.Errorf("make log directory: %w", err)
		}
	}
	name := s.hostname()
	if s.spec.Network == runtimeiface.NamespaceHost {
		if name, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	resolv, err := resolvConf(s.spec.DNS)
	if err != nil {
		return nil, err
	}
	faultPoint("log directory made")
	// Containers' users read these through bind mounts.
	if err := os.WriteFile(filepath.Join(s.dir, hostnameFile), []byte(name+"\n"), 0o644); err != nil {
		return nil, err
	}
	return lasting, os.WriteFile(filepath.Join(s.dir, resolvFile), resolv, 0o644)
}

func resolvConf(dns *runtimeiface.DNS) ([]byte, error) {
	if dns == nil {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return data, err
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		b.WriteString("search " + strings.Join(dns.Searches, " ") + "\n")
	}
	for _, server := range dns.Servers {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(dns.Options) > 0 {
		b.WriteString("options " + strings.Join(dns.Options, " ") + "\n")
	}
	return []byte(b.String()), nil
}

// mountShm: the tmpfs has the pod's own IDs, so that it needs no mapping.
func mountShm(dir string, size int64, u *runtimeiface.UserNamespace) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	faultPoint("shm directory made")
	options := "mode=1777,size=" + strconv.FormatInt(size, 10)
	if u != nil {
		uid, _ := hostID(u.UIDs, 0)
		gid, _ := hostID(u.GIDs, 0)
		options += fmt.Sprintf(",uid=%d,gid=%d", uid, gid)
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount /dev/shm of the pod: %w", err)
	}
	return nil
}

func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
