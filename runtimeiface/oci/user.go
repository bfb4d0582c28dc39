package oci

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// maxAccounts is how much of an image's passwd and group is read.
const maxAccounts = 4 << 20

// account is a line of passwd: name:password:uid:gid:comment:home:shell.
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// group is a line of group: name:password:gid:member,member.
type group struct {
	name    string
	gid     uint32
	members []string
}

// resolveUser finds who a process is and where its home is. image is what the
// image says: "", "1000", "app", "1000:1000", "app:staff".
func resolveUser(rootfs, image string, sec runtimeiface.Security) (specs.User, string, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return specs.User{}, "", fmt.Errorf("open root file system: %w", err)
	}
	defer func() { _ = root.Close() }()
	var accounts []account
	var groups []group
	if err := readBeneath(root, "etc/passwd", func(r io.Reader) { accounts = parsePasswd(r) }); err != nil {
		return specs.User{}, "", err
	}
	if err := readBeneath(root, "etc/group", func(r io.Reader) { groups = parseGroup(r) }); err != nil {
		return specs.User{}, "", err
	}
	return pickUser(accounts, groups, image, sec)
}

// readBeneath reads a file of an image; symbolic links that lead out of it,
// devices and missing files count as empty.
func readBeneath(root *os.Root, name string, read func(io.Reader)) error {
	info, err := root.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := root.Open(name)
	if err != nil {
		if _, ok := err.(*fs.PathError); ok {
			return nil
		}
		return err
	}
	defer func() { _ = f.Close() }()
	read(io.LimitReader(f, maxAccounts))
	return nil
}

func pickUser(accounts []account, groups []group, image string, sec runtimeiface.Security) (specs.User, string, error) {
	userName, groupName, _ := strings.Cut(image, ":")
	if sec.RunAsUser != nil {
		userName, groupName = strconv.FormatInt(*sec.RunAsUser, 10), ""
	}
	user := specs.User{}
	name, home := "", "/"
	uid, isNumber := parseID(userName)
	if userName == "" {
		isNumber = true
	}
	i := slices.IndexFunc(accounts, func(a account) bool {
		return a.name == userName || isNumber && a.uid == uid
	})
	switch {
	case i >= 0:
		user.UID, user.GID, name, home = accounts[i].uid, accounts[i].gid, accounts[i].name, accounts[i].home
	case isNumber:
		user.UID = uid
		if uid == 0 {
			home = "/root"
		}
	default:
		return user, "", fmt.Errorf("%w: user %q is not in the image's /etc/passwd", runtimeiface.ErrInvalid, userName)
	}
	if groupName != "" {
		gid, isNumber := parseID(groupName)
		i := slices.IndexFunc(groups, func(g group) bool { return g.name == groupName })
		switch {
		case i >= 0:
			user.GID = groups[i].gid
		case isNumber:
			user.GID = gid
		default:
			return user, "", fmt.Errorf("%w: group %q is not in the image's /etc/group", runtimeiface.ErrInvalid, groupName)
		}
	}
	if sec.RunAsGroup != nil {
		user.GID = uint32(*sec.RunAsGroup)
	}
	for _, g := range groups {
		if !sec.StrictGroups && name != "" && slices.Contains(g.members, name) {
			user.AdditionalGids = append(user.AdditionalGids, g.gid)
		}
	}
	for _, gid := range sec.SupplementalGroups {
		user.AdditionalGids = append(user.AdditionalGids, uint32(gid))
	}
	slices.Sort(user.AdditionalGids)
	user.AdditionalGids = slices.Compact(user.AdditionalGids)
	if home == "" {
		home = "/"
	}
	return user, home, nil
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func parsePasswd(r io.Reader) []account {
	var out []account
	eachLine(r, func(f []string) {
		if len(f) < 4 {
			return
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 || f[0] == "" {
			return
		}
		a := account{name: f[0], uid: uid, gid: gid}
		if len(f) > 5 {
			a.home = f[5]
		}
		out = append(out, a)
	})
	return out
}

func parseGroup(r io.Reader) []group {
	var out []group
	eachLine(r, func(f []string) {
		if len(f) < 3 {
			return
		}
		gid, ok := parseID(f[2])
		if !ok || f[0] == "" {
			return
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		out = append(out, g)
	})
	return out
}

func eachLine(r io.Reader, f func(fields []string)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxAccounts)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			f(strings.Split(line, ":"))
		}
	}
}
