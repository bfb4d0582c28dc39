package env

import (
	"fmt"
	"strings"
)

// Expand replaces $(NAME) in each of list by the value in environ, which is
// Resolve's result; $$ stands for a dollar sign, an unknown name stays as it is.
// The result is a new slice, nil for nil.
func Expand(list []string, environ []string) []string {
	if list == nil {
		return nil
	}
	values := lookup(environ)
	result := make([]string, len(list))
	for i, s := range list {
		result[i] = expand(s, func(name string) (string, bool) {
			value, ok := values[name]
			return value, ok
		})
	}
	return result
}

// ExpandStrict is Expand for one string; unknown names are an error that wraps
// ErrMissing.
func ExpandStrict(s string, environ []string) (string, error) {
	values := lookup(environ)
	var unknown []string
	result := expand(s, func(name string) (string, bool) {
		value, ok := values[name]
		if !ok {
			unknown = append(unknown, name)
		}
		return value, ok
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("expand %q: variable %s: %w", s, strings.Join(unknown, ", "), ErrMissing)
	}
	return result, nil
}

func lookup(environ []string) map[string]string {
	values := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	return values
}

// expand reads text such as "a $(B) $$(C)". Values are not expanded again.
// Source: Kubernetes v1.37.0 third_party/forked/golang/expansion.
func expand(s string, value func(name string) (string, bool)) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			s = after[1:]
		case strings.HasPrefix(after, "("):
			name, rest, closed := strings.Cut(after[1:], ")")
			if !closed {
				// No variable can follow either, as none can be closed.
				out.WriteString("$(")
				s = after[1:]
				continue
			}
			if v, ok := value(name); ok {
				out.WriteString(v)
			} else {
				out.WriteString("$(" + name + ")")
			}
			s = rest
		default:
			out.WriteByte('$')
			s = after
		}
	}
}
