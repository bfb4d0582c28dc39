package crilog

import "errors"

// ErrMalformed says that a record does not have the format of CRI.
var ErrMalformed = errors.New("malformed log record")
