package nftables

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNotSupported is what Open gives where there is no nftables: on other
// systems than Linux, or in a kernel without it. Sync gives it, with the
// *TransactionError, where a kernel lacks an expression that rules need, such as
// numgen, fib or masq.
var ErrNotSupported = errors.New("nftables is not supported")

// TransactionError is a transaction that the kernel refused; nothing of it was
// done. It wraps the first error number.
type TransactionError struct {
	What  []string // the messages that were refused, such as "chain lb-tcp-3", at most 10
	Errno error    // of the first
}

func (e *TransactionError) Error() string {
	return fmt.Sprintf("nftables transaction: %s: %v", strings.Join(e.What, ", "), e.Errno)
}

func (e *TransactionError) Unwrap() error { return e.Errno }
