package nodeusage

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// number reads "4096\n".
func number(text string) (int64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.20q: %w", text, ErrGarbled)
	}
	return int64(min(n, math.MaxInt64)), nil
}

// fields reads lines of a name and a number, as in memory.stat:
//
//	anon 4096
//	inactive_file 8192
//
// and in /proc/meminfo, where the numbers are kB:
//
//	MemTotal:       16384000 kB
func fields(text string, names ...string) (map[string]int64, error) {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		name := strings.TrimSuffix(words[0], ":")
		for _, wanted := range names {
			if name != wanted {
				continue
			}
			n, err := number(words[1])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if len(words) > 2 && words[2] == "kB" {
				if n > math.MaxInt64>>10 {
					return nil, fmt.Errorf("%s: %d kB: %w", name, n, ErrGarbled)
				}
				n <<= 10
			}
			out[name] = n
		}
	}
	for _, wanted := range names {
		if _, ok := out[wanted]; !ok {
			return nil, fmt.Errorf("no %s: %w", wanted, ErrGarbled)
		}
	}
	return out, nil
}

// tasks reads how many there are from /proc/loadavg:
//
//	1.36 3.49 4.53 2/3518 3715089
func tasks(text string) (int64, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return 0, fmt.Errorf("loadavg %.40q: %w", text, ErrGarbled)
	}
	_, all, found := strings.Cut(words[3], "/")
	if !found {
		return 0, fmt.Errorf("loadavg %.40q: %w", text, ErrGarbled)
	}
	return number(all)
}
