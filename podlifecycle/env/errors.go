package env

import (
	"errors"
	"strings"
)

var (
	// ErrMissing: an object, or a key of one, that a pod refers to is not there.
	ErrMissing = errors.New("not found")
	// ErrField: the downward API has no such field or resource.
	ErrField = errors.New("no such field")
	// ErrFile: a file of variables is not written as it must be.
	ErrFile = errors.New("is no file of variables")
	// ErrNotSupported: this way of giving a value is not supported.
	ErrNotSupported = errors.New("not supported")
)

// Error says which variable has no value, and why.
type Error struct {
	// Pod as namespace/name, and its container by name.
	Pod, Container string
	// Field is the path in the pod, such as
	// spec.containers[0].env[2].valueFrom.configMapKeyRef.
	Field string
	// Variable is the name of the variable; "" for an envFrom entry.
	Variable string
	// Object is what is referred to, such as ConfigMap default/settings, or key
	// "level" of it; "" if none is.
	Object string
	// Err wraps ErrMissing, ErrField, ErrFile, ErrNotSupported or an error of Input.File.
	Err error
}

// Error names all that is known.
func (e *Error) Error() string {
	parts := []string{"pod " + e.Pod, "container " + e.Container, e.Field}
	if e.Variable != "" {
		parts = append(parts, "variable "+e.Variable)
	}
	if e.Object != "" {
		parts = append(parts, e.Object)
	}
	return strings.Join(append(parts, e.Err.Error()), ": ")
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }
