package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"liege/selinux"
)

// sameContext reports a socket that was made for another SELinux context: it
// keeps that for life, and the new domain may not use it.
func (m *maker) sameContext(k *socket) error {
	if m.want.Context == "" {
		return nil
	}
	have, err := selinux.FileContext(k.file)
	if err == nil && have == m.want.Context {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: it was made for %s and keeps that, the vassal is to run as %s now", errOtherContext, have, m.want.Context)
	}
	return err
}

var errOtherContext = errors.New("the socket has another SELinux context")

// socket makes a stream socket of the vassal's context. It is blocking: see
// asuser.BindIn.
func (m *maker) socket(family int) (fd int, err error) {
	err = selinux.Sockets(m.want.Context, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}
