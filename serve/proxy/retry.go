package proxy

import (
	"errors"
	"syscall"
)

// Unsent reports whether err says that the server got nothing of the request:
// another one may be asked, whatever the method.
func Unsent(err error) bool {
	_, ok := errors.AsType[*dialError](err)
	return ok
}

// Unanswered reports whether err says that the server ended without one byte
// of an answer: a request that may be repeated (RFC 9110 9.2.2) may go to
// another one.
func Unanswered(err error) bool {
	return errors.Is(err, errNoAnswer) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
