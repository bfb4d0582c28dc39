package image

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A busyError is the answer of a registry that wants to be asked later.
type busyError struct {
	after time.Duration // 0 when it does not say when
	err   error
}

func (e *busyError) Error() string { return e.err.Error() }

func (e *busyError) Unwrap() error { return e.err }

// retryAfter reads "120" and "Wed, 21 Oct 2026 07:28:00 GMT" (RFC 9110,
// section 10.2.3), and gives 0 for anything else and for what is past.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// retry runs f until it succeeds, fails for good, or has failed to make
// progress attempts times. f tells whether it got further.
func (s *Store) retry(ctx context.Context, f func() (further bool, err error)) error {
	delay := s.cfg.RetryDelay
	for failed := 0; ; {
		further, err := f()
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		err = translate(err)
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return err
		}
		if further {
			failed, delay = 0, s.cfg.RetryDelay
		}
		if failed++; failed >= s.cfg.Attempts {
			return err
		}
		wait := delay
		if busy := new(registryError); errors.As(err, &busy) && busy.after > 0 {
			wait = min(busy.after, s.cfg.MaxRetryAfter)
		} else {
			delay *= 2
		}
		s.cfg.Logger.V(4).Info("registry request is tried again", "attempt", failed+1, "wait", wait, "cause", err.Error())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
