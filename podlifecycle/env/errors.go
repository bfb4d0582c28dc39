package env

import (
	"errors"
)

// ErrMissing: an object, or a key of one, that a pod refers to is not there.
var ErrMissing = errors.New("not found")

// ErrField: the downward API has no such field or resource.
var ErrField = errors.New("no such field")

// Error says which variable has no value, and why.
type Error struct {
	// Container by name.
	Container string
	// Field is the path in the pod, such as spec.containers[0].env[2].
	Field string
	// Variable is the name of the variable; "" for an envFrom entry.
	Variable string
	// Object is what is referred to, such as ConfigMap default/settings; "" if none is.
	Object string
	// Err wraps ErrMissing or ErrField.
	Err error
}

// Error names all that is known.
func (e *Error) Error() string { return "" }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }
