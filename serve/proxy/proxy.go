// Package proxy sends requests on to other servers, over TCP and unix sockets:
// by HTTP/1.1 and HTTP/2, by the uwsgi protocol, FastCGI and SCGI, or as a plain tunnel.
//
// Both directions are streamed with the backpressure of their sockets; nothing
// is buffered whole. No worker is involved. What a server answers is parsed,
// and the front makes a message of it anew: framing, Connection and the like of
// one side never reach the other.
//
// A server that cannot be reached, ends too early or answers nonsense is 502;
// one that is silent for longer than Limits.Silence is 504. A tunnel (an
// upgraded connection) has no such limit: it lives as long as both its ends.
package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"liege/serve/direct"
	"liege/serve/exchange"
)

// Limits of a Client.
type Limits struct {
	Connect time.Duration // until a connection is there
	Silence time.Duration // between two signs of life of a server, while it is waited for
}

// Client sends requests on. Make one with New; it is safe for concurrent use.
type Client struct {
	limits Limits
	log    *slog.Logger
	pool   pool
	h2c    h2cPool
}

// New returns a Client that has no connection yet. Zero limits are replaced by
// defaults.
func New(l Limits, log *slog.Logger) *Client {
	if l.Connect <= 0 {
		l.Connect = 10 * time.Second
	}
	if l.Silence <= 0 {
		l.Silence = 60 * time.Second
	}
	c := &Client{limits: l, log: log}
	c.h2c.t = c.newH2C()
	return c
}

// Close closes connections that wait for another request, those by HTTP/2 in
// any case, and keeps none any more.
func (c *Client) Close() {
	c.pool.close()
	c.h2c.close()
}

// dial connects to addr for as long as there are signs of life.
func (c *Client) dial(ctx context.Context, addr string) (*conn, error) {
	nc, err := c.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: nc, own: direct.New(nc), addr: addr, silence: c.limits.Silence}, nil
}

// connect connects to HOST:PORT, to the unix socket at a path, or to the
// abstract one @name.
func (c *Client) connect(ctx context.Context, addr string) (net.Conn, error) {
	network, to := "tcp", strings.TrimPrefix(addr, "unix:")
	if strings.HasPrefix(to, "/") || strings.HasPrefix(to, "@") {
		network = "unix"
	}
	d := net.Dialer{Timeout: c.limits.Connect}
	nc, err := d.DialContext(ctx, network, to)
	if err != nil {
		return nil, &dialError{addr, err}
	}
	return nc, nil
}

// dialError is a connection that could not be made.
type dialError struct {
	addr string
	err  error
}

func (e *dialError) Error() string { return fmt.Sprintf("upstream %s: %v", e.addr, e.err) }
func (e *dialError) Unwrap() error { return e.err }

// Unreached reports whether err is that a server could not be connected to:
// nothing of the request was sent.
func Unreached(err error) bool {
	_, ok := errors.AsType[*dialError](err)
	return ok
}

// conn is a connection to a server that is given up after a time of silence:
// each read and write begins it anew. While the client is waited for, it is not
// the server that is silent.
type conn struct {
	net.Conn
	own     *direct.Conn // nil: it was not made here
	addr    string
	silence time.Duration
	by      atomic.Int64 // the deadline that is set
	tunnel  atomic.Bool  // no limit any more
	body    *body        // of the request that is sent; nil: it has none that is waited for

	br     *bufio.Reader // HTTP only
	head   head
	idleAt time.Time
}

// arm sets the deadline. One that is at most an eighth earlier is left alone:
// setting it costs more than the rest.
func (c *conn) arm() {
	if c.tunnel.Load() {
		return
	}
	by := time.Now().Add(c.silence)
	if early := by.UnixNano() - c.by.Load(); early > int64(c.silence/8) {
		c.by.Store(by.UnixNano())
		_ = c.SetDeadline(by) // fails on a closed connection only: then what follows does
	}
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		c.arm()
		n, err := c.receive(p)
		if c.body == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !c.body.hungry.Load() && c.by.Load() < time.Now().UnixNano() {
			return n, err
		}
	}
}

func (c *conn) receive(p []byte) (int, error) {
	if c.own != nil {
		return c.own.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	c.arm()
	if c.own != nil {
		return c.own.Write(p)
	}
	return c.Conn.Write(p)
}

// open lets the connection wait as long as its peer lives.
func (c *conn) open() {
	c.tunnel.Store(true)
	_ = c.SetDeadline(time.Time{}) // as in arm
}

// CloseWrite ends the direction to the server.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// upstream is an error of the server at addr as one to answer with.
func upstream(addr string, err error) error {
	if e, ok := errors.AsType[*exchange.StatusError](err); ok {
		return e
	}
	if _, ok := errors.AsType[*dialError](err); !ok {
		err = fmt.Errorf("upstream %s: %w", addr, err)
	}
	status := 502
	if t, ok := errors.AsType[net.Error](err); errors.Is(err, os.ErrDeadlineExceeded) || ok && t.Timeout() {
		status = 504
	}
	return &exchange.StatusError{Status: status, Err: err}
}
