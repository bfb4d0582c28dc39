package source

import "errors"

// ErrDuplicate: another file, or an earlier document, has an object of that name.
var ErrDuplicate = errors.New("duplicate")

// ErrEmptied: a file that had objects has no text any more. They are kept, as
// when a file is cut short by an editor; deleting the file ends them.
var ErrEmptied = errors.New("is empty now, what it held is kept; delete the file to end it")
