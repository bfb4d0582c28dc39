package podlifecycle

import "errors"

// ErrNotFound: there is no such pod or container.
var ErrNotFound = errors.New("not found")

// ErrStarted: Run was called a second time.
var ErrStarted = errors.New("already started")

// ErrEnded: Run has returned, or was never called, so that nobody can act.
var ErrEnded = errors.New("not running")

// ErrOwnCondition: the condition says what this package alone decides.
var ErrOwnCondition = errors.New("is set by the agent itself")
