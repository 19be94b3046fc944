package worker

import (
	"context"
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/serve/proxy"
)

// takeover is how a call ends whose application wants the connection itself
// (Rack's full hijack): what comes over conn is the answer, with its head. The
// worker is free, and whoever of its threads or processes holds the other end
// writes when it likes.
type takeover struct{ conn net.Conn }

func (*takeover) Error() string { return "the application has taken the connection over" }

var errNoSocket = errors.New("a descriptor that is no stream socket")

// takeover ends the lane's part in the current call.
func (l *lane) takeover(f frame) error {
	c := l.current
	if f.size != 0 || c.started {
		return breachf("a connection taken over after the answer began")
	}
	if l.n != l.r {
		return breachf("more before the connection's descriptor")
	}
	if err := l.send('G', 0, nil); err != nil {
		return err
	}
	file, err := l.passed()
	if err != nil {
		return err
	}
	defer file.Close()
	conn, err := streamSocket(file)
	if err != nil {
		return breachf("%v", err)
	}
	l.account()
	l.current = nil
	c.mu.Lock()
	l.p.complete(c, &takeover{conn})
	return nil
}

// streamSocket is file as a connection, if it is a connected unix socket.
func streamSocket(file *os.File) (net.Conn, error) {
	fd := int(file.Fd())
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return nil, errNoSocket
	}
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family != unix.AF_UNIX {
		return nil, errNoSocket
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens != 0 {
		return nil, errNoSocket
	}
	return net.FileConn(file)
}

// relay serves r with what the application sends.
func (t *takeover) relay(ctx context.Context, p *Pool, r *exchange.Request, w exchange.Response) error {
	return proxy.New(proxy.Limits{}, p.log).Answer(ctx, r, w, t.conn, "the application's connection")
}
