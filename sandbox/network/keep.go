package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// settlingTime is how long Keep lets somebody finish who changes rules: a firewall
// that is loaded anew first flushes everything.
const settlingTime = 200 * time.Millisecond

// Keep makes the host's table anew when somebody else has removed it or a chain of
// it ("nft flush ruleset"), until ctx is done. mended is told each time, with the
// error if it could not. The kernel says when rules change; but for the beginning
// nothing is done at other times. Where it has no nftables Keep returns at once.
func Keep(ctx context.Context, mended func(error)) error {
	news, err := ruleNews()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("changes of the host's rules are not heard of: %w", err)
	}
	defer context.AfterFunc(ctx, func() { news.Close() })()
	defer news.Close()
	buf := make([]byte, 1<<16)
	for {
		if gone, err := mend(); gone || err != nil { // the first time what was removed before anybody listened
			mended(err)
		}
		if _, err := news.Read(buf); ctx.Err() != nil {
			return nil
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) { // more than it held: news too
			return fmt.Errorf("changes of the host's rules are not heard of any more: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settlingTime):
		}
	}
}

// ruleNews is a socket on which the kernel tells of every change of rules in this
// network namespace.
func ruleNews() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// mend makes the host's table if a vassal is connected and it is not whole.
func mend() (gone bool, err error) {
	hostLock.Lock()
	defer hostLock.Unlock()
	links, err := ours()
	if err != nil || len(links) == 0 {
		return false, err
	}
	conn, err := nftables.New()
	if err != nil || there(conn) {
		return false, err
	}
	return true, makeHostTable()
}
