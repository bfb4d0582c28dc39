// Package barepod does by hand what a pod with one container cannot do without,
// to measure by: it is the limit that a runtime's figures stand beside.
package barepod
