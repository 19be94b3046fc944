package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"liege/serve/exchange"
)

// upgradeTo is the one protocol that connections are upgraded to. Over any
// other that speaks of requests again (h2c, TLS) a client would send them past
// the rules, the limits and the log.
const upgradeTo = "websocket"

// Upgrades reports whether r asks for an upgrade that is passed on.
func Upgrades(r *exchange.Request) bool { return strings.EqualFold(r.Get("HTTP_UPGRADE"), upgradeTo) }

// switched makes a tunnel of a connection that the server has agreed to
// upgrade. What it has sent already is in br.
func (c *Client) switched(ctx context.Context, h *head, w exchange.Response, nc *conn, br *bufio.Reader, asked bool) error {
	if !asked {
		return upstream(nc.addr, errors.New("it switches protocols without being asked"))
	}
	if !strings.EqualFold(h.upgrade, upgradeTo) {
		return upstream(nc.addr, fmt.Errorf("it switches to %.40q, and was asked for a WebSocket", h.upgrade))
	}
	h.fields = append(h.fields, exchange.Field{Name: "Connection", Value: "Upgrade"}, exchange.Field{Name: "Upgrade", Value: h.upgrade})
	nc.open()
	return tunnel(ctx, w, 101, h.fields, readWriter{br, nc}, nc)
}

type readWriter struct {
	io.Reader
	io.Writer
}

// Connect makes a tunnel of the client's connection and one to addr.
func (c *Client) Connect(ctx context.Context, r *exchange.Request, w exchange.Response, addr string) error {
	r.Info.Backend = "proxy"
	nc, err := c.dial(ctx, addr)
	if err != nil {
		return upstream(addr, err)
	}
	defer nc.Close()
	nc.open()
	return tunnel(ctx, w, 200, nil, nc, nc)
}

// tunnelPiece is how much of a direction is in hand at once: there may be many
// tunnels, and most are silent.
const tunnelPiece = 8 << 10

// parting is how long one direction may go on when the other is at its end: a
// peer that is gone says no more than that.
const parting = 10 * time.Second

// tunnel sends the head and moves bytes both ways until both ends have said
// that they are done, one of them breaks, or ctx ends. far is read and written;
// nc is the connection beneath it.
func tunnel(ctx context.Context, w exchange.Response, status int, fields []exchange.Field, far io.ReadWriter, nc *conn) error {
	t, ok := w.(exchange.Tunneler)
	if !ok {
		return &exchange.StatusError{Status: 501, Err: errors.New("this listener's connections cannot become tunnels")}
	}
	near, err := t.Tunnel(status, reasonOf(status), fields)
	if err != nil {
		return err
	}
	cut := func() { near.Close(); nc.Close() }
	stop := context.AfterFunc(ctx, cut)
	defer stop()
	defer cut()
	ended, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var both sync.WaitGroup
	move := func(to io.Writer, from io.Reader, done func() error) {
		if _, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, make([]byte, tunnelPiece)); err != nil || done() != nil {
			cut() // broken: the other direction is no good either
			return
		}
		end := time.AfterFunc(parting, cut)
		context.AfterFunc(ended, func() { end.Stop() })
	}
	both.Go(func() { move(near, far, near.CloseWrite) })
	both.Go(func() { move(far, near, nc.CloseWrite) })
	both.Wait()
	return nil
}

// onlyWriter and onlyReader hide what io.Copy would use instead: splice(2)
// under one deadline for all of it.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

func reasonOf(status int) string {
	if status == 200 {
		return "Connection established"
	}
	return "Switching Protocols"
}
