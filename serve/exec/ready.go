package exec

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
	"liege/serve/proxy"
	"liege/vassal"
)

// freePort is a TCP port of 127.0.0.1 that nobody uses at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("a free port for exec: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

var errNowhere = errors.New("it listens neither on $PORT nor at $LIEGE_SOCKET")

// check waits until copy n answers, and notes where.
func (h *Handler) check(ctx context.Context, n, pid int) error {
	h.mu.Lock()
	port := h.copies[n].port
	h.mu.Unlock()
	where := []string{h.socket(n), "127.0.0.1:" + strconv.Itoa(port), "[::1]:" + strconv.Itoa(port)}
	wait := 2 * time.Millisecond
	t := time.NewTimer(wait)
	defer t.Stop()
	err := errNowhere
	for {
		for _, addr := range where {
			e := h.probe(ctx, addr, port)
			if e == nil {
				h.mu.Lock()
				h.copies[n].addr = addr
				h.mu.Unlock()
				return nil
			}
			if _, silent := errors.AsType[*net.OpError](e); !silent {
				err = fmt.Errorf("%s: %w", addr, e)
			}
		}
		wait = min(2*wait, 100*time.Millisecond)
		t.Reset(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			if errors.Is(err, errNowhere) {
				hint := h.elsewhere() // while it is there to be asked
				h.hint.Store(&hint)
			}
			return err
		}
	}
}

// probeTime is how long one look may take.
const probeTime = 5 * time.Second

// probe asks whether the program answers at addr.
func (h *Handler) probe(ctx context.Context, addr string, port int) error {
	network := "tcp"
	if addr[0] == '/' {
		network = "unix"
	}
	d := net.Dialer{Timeout: probeTime}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if network == "tcp" {
		if err := ownPort(port, os.Getuid()); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(probeTime)) // fails with the write
	switch {
	case h.x.H2C && h.x.Ready != "":
		return h.askH2C(ctx, addr)
	case h.x.H2C:
		return speaksH2(c)
	case h.x.Ready == "":
		return nil
	}
	if _, err := io.WriteString(c, "GET "+h.x.Ready+" HTTP/1.1\r\nHost: localhost\r\nUser-Agent: liege\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("exec-ready = %s is not answered: %w", h.x.Ready, err)
	}
	f := strings.Fields(line)
	if len(f) < 2 || !strings.HasPrefix(f[0], "HTTP/1.") || len(f[1]) != 3 || f[1][0] != '2' && f[1][0] != '3' {
		return fmt.Errorf("exec-ready = %s is answered with %.60q", h.x.Ready, strings.TrimSpace(line))
	}
	return nil
}

// speaksH2 exchanges the beginning of HTTP/2 with a server (RFC 9113 3.4): one
// that speaks something else would answer every request with nonsense.
func speaksH2(c net.Conn) error {
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	var head [9]byte // of its first frame, which must be SETTINGS and no acknowledgement
	n, err := io.ReadFull(c, head[:])
	switch {
	case strings.HasPrefix(string(head[:n]), "HTTP/1."):
		return errors.New("it speaks HTTP/1.1: exec-protocol = http, or have it speak HTTP/2 without TLS")
	case err != nil:
		return fmt.Errorf("it does not begin HTTP/2: %w", err)
	case head[3] != 4 || head[4] != 0 || binary.BigEndian.Uint32(head[5:]) != 0:
		return fmt.Errorf("it does not begin HTTP/2: % x", head)
	}
	return nil
}

// askH2C asks for exec-ready by HTTP/2.
func (h *Handler) askH2C(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	r := &exchange.Request{Start: time.Now(), Body: strings.NewReader(""), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"},
		{Name: "REQUEST_URI", Value: h.x.Ready}, {Name: "HTTP_HOST", Value: "localhost"}, {Name: "HTTP_USER_AGENT", Value: "liege"}}}
	s := &seen{}
	err := h.client.H2C(ctx, r, s, proxy.Target{Address: addr})
	switch {
	case s.status >= 200 && s.status < 400:
		return nil
	case s.status > 0:
		return fmt.Errorf("exec-ready = %s is answered with %d", h.x.Ready, s.status)
	}
	return fmt.Errorf("exec-ready = %s is not answered: %w", h.x.Ready, err)
}

// seen is a Response of which the status counts.
type seen struct{ status int }

var errSeen = errors.New("the rest does not matter")

func (s *seen) Head(status int, _ string, _ []exchange.Field) error {
	s.status = status
	return errSeen
}
func (s *seen) Write([]byte) (int, error)              { return 0, errSeen }
func (s *seen) Flush() error                           { return errSeen }
func (s *seen) Started() bool                          { return s.status != 0 }
func (s *seen) File(exchange.File, int64, int64) error { return errSeen }

// ownPort says who else listens on port, if anybody but uid does: in the
// host's network a port that was free may be another's by now.
func ownPort(port, uid int) error {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		for _, l := range listening(b) {
			if l.port == port && l.uid != uid {
				return fmt.Errorf("port %d is used by a process of uid %d", port, l.uid)
			}
		}
	}
	return nil
}

// A listener is one line of /proc/net/tcp.
type listener struct{ port, uid int }

// listening are the sockets in state LISTEN (0A) of a table in the form of
// /proc/net/tcp.
func listening(table []byte) (out []listener) {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) < 8 || f[3] != "0A" {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		port, err1 := strconv.ParseUint(hex, 16, 16)
		uid, err2 := strconv.Atoi(f[7])
		if err1 == nil && err2 == nil {
			out = append(out, listener{int(port), uid})
		}
	}
	return out
}

// problem says why copy n did not come up.
func (h *Handler) problem(n int, how string, err error) *vassal.Problem {
	p := &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeExitedEarly, File: h.x.At.File, Line: h.x.At.Line, Key: "exec"}
	switch {
	case how == "not started" && errors.Is(err, fs.ErrNotExist):
		p.Code, p.Message = vassal.CodeNoInterpreter, fmt.Sprintf("%s: not found inside the sandbox", h.x.Command[0])
		p.Hint = "install it, or show it: bind = its directory"
	case how == "not started":
		p.Code, p.Message = vassal.CodeStartFailed, fmt.Sprintf("%s: %v", h.title, err)
	case err != nil:
		p.Code, p.Message = vassal.CodeNotReady, fmt.Sprintf("%s: not ready after %v: %v", h.title, h.x.StartTimeout, err)
		if hint := h.hint.Load(); hint != nil {
			p.Hint = *hint
		}
	default:
		p.Message = fmt.Sprintf("%s: ended before it was ready: %s", h.title, how)
		p.Hint = "what it printed is in the log"
		if how == "exit status 0" {
			p.Hint = "if it goes into the background: it must stay in the foreground, where Liege sees it end; most servers have an option for that. " + p.Hint
		}
	}
	return p
}

// told reports whether port is what a copy was told: another one may listen there.
func (h *Handler) told(port int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.copies {
		if h.copies[i].port == port {
			return true
		}
	}
	return false
}

// elsewhere is the hint for a program that does not listen where it was told:
// the port on which a process of the same user does, if there is one.
func (h *Handler) elsewhere() string {
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, l := range listening(b) {
			if l.uid == os.Getuid() && h.x.Port == 0 && os.Getpid() < 3 && !h.told(l.port) { // in a sandbox whatever listens is the program
				return fmt.Sprintf("it listens on port %d: let it listen on $PORT, or write exec-port = %d", l.port, l.port)
			}
		}
	}
	return "let it listen on $PORT of 127.0.0.1, or at $LIEGE_SOCKET; a port that it has by itself: exec-port = 3000"
}
