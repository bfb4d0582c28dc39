package oci

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Cgroup drivers, for Config.CgroupDriver.
const (
	cgroupfsDriver = "cgroupfs"
	systemdDriver  = "systemd"
)

const (
	sliceSuffix = ".slice"
	scopePrefix = "nodekit"
	// maxUnitName is UNIT_NAME_MAX of systemd, v252 src/basic/unit-name.h.
	maxUnitName = 255
)

// sliceName is what systemd allows in the name of a unit, without templates.
var sliceName = regexp.MustCompile(`^[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice$`)

// isSlice tells that systemd would take a cgroup for a slice.
func isSlice(cgroup string) bool { return strings.HasSuffix(cgroup, sliceSuffix) }

// checkSlice wants the cgroup of a slice, which its name tells whole
// (systemd.slice(5)): a-b.slice is /a.slice/a-b.slice.
func checkSlice(cgroup string) error {
	name := path.Base(cgroup)
	if !isSlice(name) {
		return errors.New("is no slice, such as /a.slice/a-b.slice")
	}
	if !sliceName.MatchString(name) || len(name) > maxUnitName {
		return fmt.Errorf("is no slice: systemd allows no unit %s", name)
	}
	want := ""
	words := strings.Split(strings.TrimSuffix(name, sliceSuffix), "-")
	for i := range words {
		want += "/" + strings.Join(words[:i+1], "-") + sliceSuffix
	}
	if cgroup != want {
		return fmt.Errorf("is not where systemd has the slice, which is %s", want)
	}
	return nil
}

// checkCgroup wants the parent of a pod's or of all pods' cgroups to be what the
// driver can work with: what was meant for the other one is a mistake.
func checkCgroup(driver, cgroup string) error {
	switch {
	case driver == systemdDriver:
		return checkSlice(cgroup)
	case isSlice(cgroup):
		return errors.New("is a slice, which wants the systemd driver")
	}
	return nil
}

// podSlice is the cgroup of the slice of a pod below another slice's.
func podSlice(parent, pod string) string {
	name := strings.TrimSuffix(path.Base(parent), sliceSuffix) + "-" + pod + sliceSuffix
	return path.Join(parent, name)
}

// scopeOf is the cgroup of a container's scope below a slice's.
func scopeOf(slice, id string) string {
	return path.Join(slice, scopePrefix+"-"+id+".scope")
}

// scopePath is the same as OCI runtimes want it of --systemd-cgroup:
// slice:prefix:name.
func scopePath(slice, id string) string {
	return path.Base(slice) + ":" + scopePrefix + ":" + id
}
