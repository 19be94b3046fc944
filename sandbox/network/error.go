package network

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is why a vassal cannot have its network, and what to do about it.
type Error struct {
	What string // the interface, the table, the setting
	Err  error
	Hint string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// tableError is an error of nftables about a table.
func tableError(name string, err error) error {
	e := &Error{What: "nftables: table inet " + name, Err: err}
	switch {
	case errors.Is(err, unix.EPERM):
		e.Hint = "the Emperor needs CAP_NET_ADMIN"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
		e.Hint = "a kernel with nftables: modprobe -a " + modules
	}
	return e
}

// modules are those that the rules need, where they are not built in.
const modules = "nf_tables nft_ct nft_nat nft_masq nft_fib_inet nft_reject_inet nft_connlimit"

// linkError is an error of netlink.
func linkError(what string, err error) error {
	e := &Error{What: what, Err: err}
	switch {
	case errors.Is(err, unix.EPERM):
		e.Hint = "the Emperor needs CAP_NET_ADMIN and CAP_SYS_ADMIN"
	case errors.Is(err, unix.EOPNOTSUPP):
		e.Hint = "modprobe veth"
	case errors.Is(err, unix.EEXIST):
		e.Hint = "another Emperor gives the same addresses: nat-pool = another network, in [emperor]"
	}
	return e
}
