package oci

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/moby/profiles/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// defaultProfile is the name in the kernel of what AppArmorRuntimeDefault means.
const defaultProfile = "nodekit-default"

const (
	appArmorEnabled  = "/sys/module/apparmor/parameters/enabled"
	appArmorProfiles = "/sys/kernel/security/apparmor/profiles"
	seLinuxFS        = "/sys/fs/selinux/enforce"
)

// hasAppArmor tells whether the kernel enforces profiles.
var hasAppArmor = sync.OnceValue(func() bool {
	text, err := os.ReadFile(appArmorEnabled)
	return err == nil && len(text) > 0 && text[0] == 'Y'
})

// confine sets the AppArmor profile, and refuses labels that a kernel with
// SELinux would heed: they are not set here.
func (in specInput) confine(s *specs.Spec) error {
	sec := in.container.Security
	if sec.SELinux != nil {
		if _, err := os.Stat(seLinuxFS); err == nil {
			return fmt.Errorf("Security.SELinux: %w: labels are not set", runtimeiface.ErrNotSupported)
		}
	}
	switch {
	case sec.AppArmor == runtimeiface.AppArmorLocalhost:
		if !hasAppArmor() {
			return fmt.Errorf("Security.AppArmorProfile %s: %w: this kernel has no AppArmor", sec.AppArmorProfile, runtimeiface.ErrNotSupported)
		}
		if there, err := isLoaded(sec.AppArmorProfile); err != nil {
			return fmt.Errorf("Security.AppArmorProfile: %w", err)
		} else if !there {
			return invalid("Security.AppArmorProfile", sec.AppArmorProfile+" is not loaded in the kernel")
		}
		s.Process.ApparmorProfile = sec.AppArmorProfile
	case !hasAppArmor(), sec.Privileged, sec.AppArmor == runtimeiface.AppArmorUnconfined:
	default:
		err := loadDefaultProfile()
		switch {
		case err == nil:
			s.Process.ApparmorProfile = defaultProfile
		case sec.AppArmor == "" && errors.Is(err, exec.ErrNotFound): // not asked for, and nobody here loads profiles
		default:
			return fmt.Errorf("Security.AppArmor %s: %w", runtimeiface.AppArmorRuntimeDefault, err)
		}
	}
	return nil
}

var defaultProfileLock sync.Mutex

// loadDefaultProfile has the kernel know defaultProfile. Somebody may unload it
// at any time, so it is looked for again.
func loadDefaultProfile() error {
	defaultProfileLock.Lock()
	defer defaultProfileLock.Unlock()
	if there, err := isLoaded(defaultProfile); err != nil || there {
		return err
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		return err
	}
	return apparmor.InstallDefault(defaultProfile)
}

// isLoaded looks for a profile in lines such as "nodekit-default (enforce)".
func isLoaded(name string) (bool, error) {
	file, err := os.Open(appArmorProfiles)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if profile, _, ok := strings.Cut(lines.Text(), " ("); ok && profile == name {
			return true, nil
		}
	}
	return false, lines.Err()
}
