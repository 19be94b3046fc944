package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/exchange"
	"liege/vassal"
)

// tunnelEcho makes a tunnel of a request for /tunnel and sends back what comes.
func tunnelEcho(_ context.Context, r *exchange.Request, w exchange.Response) error {
	if r.Get("PATH_INFO") != "/tunnel" {
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		_, err := io.WriteString(w, r.Get("HTTP_CONNECTION")+"|"+r.Get("HTTP_UPGRADE"))
		return err
	}
	s, err := w.(exchange.Tunneler).Tunnel(101, "", []exchange.Field{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: r.Get("HTTP_UPGRADE")}, {Name: "X-A", Value: "b"}})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = io.Copy(s, s)
	return errors.Join(err, s.CloseWrite())
}

// TestTunnel: a connection becomes a tunnel, with what the client sent early,
// and waits longer than any timeout; requests that cannot are refused.
func TestTunnel(t *testing.T) {
	testenv.Leaks(t)
	limits := vassal.HTTPLimits{BodyTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, HeaderTimeout: 50 * time.Millisecond, WriteTimeout: time.Second, KeepAlive: true}
	for _, proto := range []vassal.Protocol{vassal.HTTP, vassal.UWSGI} {
		addr := serve(t, proto, limits, tunnelEcho).addr
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if proto == vassal.HTTP {
			io.WriteString(c, "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
		} else {
			io.WriteString(c, packet(0, "REQUEST_METHOD", "GET", "PATH_INFO", "/tunnel", "HTTP_UPGRADE", "websocket")+"early")
		}
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("X-A") != "b" || res.Header.Get("Connection") != "Upgrade" {
			t.Fatalf("%s: %v %+v", proto, err, res)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "early" {
			t.Fatalf("%s: %v %q", proto, err, buf)
		}
		time.Sleep(150 * time.Millisecond)
		io.WriteString(c, "later")
		if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "later" {
			t.Fatalf("%s: %v %q", proto, err, buf)
		}
		c.(*net.TCPConn).CloseWrite()
		if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", proto, err)
		}
	}
}

// TestUpgradeVariables: what an upgrade is, and what only looks like one.
func TestUpgradeVariables(t *testing.T) {
	addr := serve(t, vassal.HTTP, vassal.HTTPLimits{KeepAlive: true}, tunnelEcho).addr
	for _, c := range []struct{ head, want string }{
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "Upgrade|websocket"},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "|"},
		{"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "|"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nx", "|"},
		{"POST /tunnel HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "400 Bad Request\n"},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, c.head)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		conn.Close()
		if string(b) != c.want {
			t.Errorf("%s: %q, want %q", strings.SplitN(c.head, "\r\n\r\n", 2)[0], b, c.want)
		}
	}
}
