package env

import (
	"fmt"
	"strings"
)

// fileValue finds a variable in a file that a container has left, "" if it is
// not there. Lines behind it are not looked at. A value stands in single
// quotes, may span lines, and is taken literally; with a blank before its quote
// it is empty.
// Source: Kubernetes v1.37.0 pkg/kubelet/util/env/env_util.go ParseEnv.
//
//	# a comment
//	NAME='value'   # another
//	LINES='one
//	two'
func fileValue(text, key string) (string, error) {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	for i := 0; i < len(lines); i++ {
		at := i + 1
		line := strings.TrimLeft(lines[i], " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", fmt.Errorf("line %d has no '=': %w", at, ErrFile)
		case name == "" || strings.TrimRight(name, " \t") != name:
			return "", fmt.Errorf("line %d has no name right before its '=': %w", at, ErrFile)
		case value == "" || value[0] != ' ' && value[0] != '\t' && value[0] != '\'':
			return "", fmt.Errorf("line %d has a value without single quotes: %w", at, ErrFile)
		}
		if value[0] != '\'' {
			if name == key {
				return "", nil
			}
			continue
		}
		rest := value[1:]
		for !strings.Contains(rest, "'") {
			if i++; i == len(lines) || i == len(lines)-1 && lines[i] == "" {
				return "", fmt.Errorf("line %d begins a value that does not end: %w", at, ErrFile)
			}
			rest += "\n" + lines[i]
		}
		content, after, _ := strings.Cut(rest, "'")
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return "", fmt.Errorf("line %d has more behind its value: %w", i+1, ErrFile)
		}
		if name == key {
			return content, nil
		}
	}
	return "", nil
}
