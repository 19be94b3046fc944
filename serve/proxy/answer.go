package proxy

import (
	"bufio"
	"context"
	"net"

	"liege/serve/exchange"
)

// Answer answers r with what comes over nc, as if r had been sent over it: an
// HTTP answer with its head, and a tunnel where that switches protocols and r
// asked for it. r's body goes to nc. There is no time limit: whoever made nc
// keeps it as long as it likes. nc is closed when Answer returns; from names it
// in errors.
func (c *Client) Answer(ctx context.Context, r *exchange.Request, w exchange.Response, nc net.Conn, from string) error {
	own := &conn{Conn: nc, addr: from, silence: c.limits.Silence}
	own.br = bufio.NewReaderSize(own, pieceSize)
	own.open()
	x := trip{c: c, r: r, w: w, nc: own, method: r.Get("REQUEST_METHOD"), upgrade: Upgrades(r)}
	stop := context.AfterFunc(ctx, func() { own.Close() })
	defer stop()
	defer own.Close()
	if r.Length == 0 {
		return x.answer(ctx)
	}
	return x.withBody(ctx, nil)
}
