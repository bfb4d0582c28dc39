package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	"github.com/nodekit/nodekit/proxyrules/nftables"
)

// show prints what the files come to: as rules, or for one packet. Mistakes in
// them are told beside, and make the end an error.
func show(o options, out, errOut io.Writer) error {
	directory, err := source.New(source.Config{Path: o.manifests})
	if err != nil {
		return err
	}
	set := directory.Read()
	told := teller{out: errOut, dir: o.manifests}
	told.manifests(set.Problems)
	table, problems := proxyrules.Build(set.Services, set.EndpointSlices, o.node, nil)
	told.services(problems)
	text := proxyrules.Trace(table, o.packet).String()
	if o.render {
		if text, err = render(o, table); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	if told.count > 0 {
		return errors.New("the files have mistakes, see above")
	}
	return nil
}

// render gives the rules as text.
func render(o options, table *proxyrules.Table) (string, error) {
	if o.mode == "nftables" {
		return nftables.Render(nftables.Config{Table: o.table}, table)
	}
	var all string
	for _, ipv6 := range []bool{false, true} {
		text, err := iptables.Render(iptables.Config{Prefix: chainPrefix}, table, ipv6)
		if err != nil {
			return "", err
		}
		all += fmt.Sprintf("# for %s --noflush\n", map[bool]string{false: "iptables-restore", true: "ip6tables-restore"}[ipv6]) + text
	}
	return all, nil
}

// unreadable says that the directory is not there or cannot be read.
func unreadable(set source.Set) bool {
	return len(set.Waiting) > 0 || slices.Contains(set.Broken, ".")
}

// teller tells each problem once, with the file that it is in.
type teller struct {
	out   io.Writer
	dir   string
	count int
	// known are the problems of the last files and of what was made of them.
	known [2]map[string]bool
}

func (t *teller) manifests(problems []manifest.Problem) {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.Error()
	}
	t.tell(0, lines)
}

// services tells what could not be done as a Service asks.
func (t *teller) services(problems []proxyrules.Problem) {
	lines := make([]string, len(problems))
	var files map[string]string
	if len(problems) > 0 {
		files = t.files()
	}
	for i, p := range problems {
		if lines[i] = p.String(); files[p.Service] != "" {
			lines[i] = files[p.Service] + ": " + lines[i]
		}
	}
	t.tell(1, lines)
}

func (t *teller) tell(kind int, lines []string) {
	now := make(map[string]bool, len(lines))
	for _, line := range lines {
		if !t.known[kind][line] && !now[line] {
			t.count++
			_, _ = fmt.Fprintln(t.out, line)
		}
		now[line] = true
	}
	t.known[kind] = now
}

// files says in which file each Service is. Only a problem asks.
func (t *teller) files() map[string]string {
	found := make(map[string]string)
	entries, _ := os.ReadDir(t.dir) // who cannot be read is no file's name
	for _, entry := range entries {
		path := filepath.Join(t.dir, entry.Name())
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		objects, _ := manifest.Decode(entry.Name(), file)
		_ = file.Close()
		for _, s := range objects.Services {
			if name := s.Namespace + "/" + s.Name; found[name] == "" {
				found[name] = entry.Name()
			}
		}
	}
	return found
}
