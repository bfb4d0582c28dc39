package runtimeiface

import "strings"

// ImageSubpath takes the option "subpath=" out of those of a mount of Type
// "image": path is relative to the image's root, "" for all of it. The last one
// given counts; others are the options that are left, in their order.
func ImageSubpath(options []string) (path string, others []string) {
	for _, option := range options {
		if sub, ok := strings.CutPrefix(option, "subpath="); ok {
			path = sub
			continue
		}
		others = append(others, option)
	}
	return path, others
}
