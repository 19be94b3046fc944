package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"liege/vassal"
)

// Limits of the server.
const (
	MaxClients     = 128             // connections at once of root and the control group
	RequestTime    = 5 * time.Second // for the request line to arrive
	ReplyTime      = 5 * time.Second // for the client to take one reply
	DefaultTimeout = 60 * time.Second
	MaxTimeout     = 24 * time.Hour
	MaxNames       = 1024 // names or patterns of one request
)

// Outcome is how a wish for one vassal ended.
type Outcome struct {
	OK      bool
	Code    int    // exit code of the command; 0 if OK
	Text    string // one line for people
	Problem *vassal.Problem
}

// Backend is what the server asks: an *emperor.Emperor. No method waits for
// a vassal longer than its context allows.
type Backend interface {
	// Vassals returns every vassal in name order.
	Vassals(ctx context.Context) []Vassal
	// VassalsOf returns those that user may see, in name order.
	VassalsOf(ctx context.Context, user int) []Vassal
	// Users returns who may see a vassal, some more than once. It is fast.
	Users() []int
	// Refresh reads the vassal files anew: what they say now is known to the
	// calls that follow.
	Refresh(ctx context.Context) error
	// Act passes r on to the vassal called name and returns when that is
	// done, or at once if r.NoWait.
	Act(ctx context.Context, name string, r Request, by string) Outcome
	// Await returns when the vassal called name has reached goal, or cannot.
	Await(ctx context.Context, name, goal string) Outcome
	// Enter runs r.Command in the sandbox of the vassal called name with files,
	// and returns when it has ended. It ends what it started when ctx is done.
	// The Outcome's Code is the command's if it is OK.
	Enter(ctx context.Context, name string, r Request, by string, files []*os.File) Outcome
	// Concurrency is how many vassals may start at once.
	Concurrency() int
}

// Server answers the requests of control.sock. Set its fields, then call
// Serve.
type Server struct {
	Backend Backend
	Group   int    // gid that may do everything but Admin; negative: none
	Version string // of the running Emperor
	Binary  string // path of its executable
	Log     *slog.Logger

	mu      sync.Mutex
	total   int                  // clients that may do everything
	strange int                  // and those that may not
	users   map[uint32]*stranger // by uid
	usersAt time.Time            // when it was looked up who they are
	looking *shared              // nil: nobody waits for a look at the files
	looked  time.Time
}

// Serve answers the connections of ln until ctx is done, then closes ln and
// returns when every answer is given or given up.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	return s.serve(ctx, ln, 0)
}

// ServeUsers is Serve for the socket that everybody may connect to, where whoever
// is turned away costs the next one a moment.
func (s *Server) ServeUsers(ctx context.Context, ln *net.UnixListener) error {
	return s.serve(ctx, ln, 2*time.Millisecond)
}

func (s *Server) serve(ctx context.Context, ln *net.UnixListener, pause time.Duration) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("control socket: %w", err)
		case err != nil: // out of descriptors, or the client is gone: go on
			s.Log.Warn("control socket", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		// Counted here and not by the client's goroutine, so that who came
		// first is let in first.
		p, err := peerOf(c)
		code, word, message, hint := 77, vassal.CodeNotPermitted, "who asks cannot be told", ""
		if err == nil {
			code, word, message, hint = s.admit(p)
		}
		if code != 0 { // no goroutine, and no wait: the reply fits into the socket
			(&replies{conn: c}).fail(code, word, message, hint)
			c.Close()
			time.Sleep(pause)
			continue
		}
		wg.Go(func() {
			defer c.Close()
			defer s.leave(p)
			s.client(ctx, c, p, &replies{conn: c})
		})
	}
}

// client serves one connection of p, which was let in.
func (s *Server) client(ctx context.Context, c *net.UnixConn, p peer, w *replies) {
	base := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	c.SetReadDeadline(time.Now().Add(RequestTime))
	in := &received{conn: c, take: p.uid == 0} // who enters is root
	defer in.close()
	limit := MaxRequest
	if !s.full(p) {
		limit = StrangerRequest
	}
	line, err := readLine(in, limit)
	if err != nil {
		w.fail(64, vassal.CodeBadRequest, err.Error(), "")
		return
	}
	r, err := ParseRequest(line)
	if err != nil {
		w.fail(64, vassal.CodeBadRequest, err.Error(), "")
		return
	}
	if !s.full(p) && len(r.Names) > StrangerNames {
		w.fail(64, vassal.CodeBadRequest, fmt.Sprintf("%d names, want at most %d", len(r.Names), StrangerNames), "--all")
		return
	}
	c.SetReadDeadline(time.Time{})
	if r.Paced = !s.full(p); r.Paced {
		if r.Timeout == 0 || r.Timeout > StrangerTime {
			r.Timeout = StrangerTime
		}
	}
	if r.Verb != Enter { // that takes as long as somebody sits there
		in.close()
		w.end = time.Now().Add(cmp.Or(r.Timeout, time.Hour) + ReplyTime)
	}
	// A client that hangs up wants nothing more. It has nothing to say either.
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		defer cancel()
		_, _ = c.Read(make([]byte, 1)) // an error, the end or a byte: it is over in any case
	}()
	s.answer(ctx, base, r, p, w, in.files)
	in.close()
	c.CloseRead()
	c.Close()
	<-hungUp
}

// readLine returns the first line of r without its end, of at most limit
// bytes.
func readLine(r io.Reader, limit int) ([]byte, error) {
	in := bufio.NewReader(io.LimitReader(r, int64(limit)))
	b, err := in.ReadBytes('\n')
	switch {
	case err == nil:
		return bytes.TrimSuffix(b, []byte("\n")), nil
	case len(b) == limit:
		return nil, fmt.Errorf("request is longer than %d bytes", limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errors.New("request did not arrive in time")
	}
	return nil, errors.New("request ends in the middle")
}

// ParseRequest returns the Request in line, or an error that says what is
// wrong with it.
func ParseRequest(line []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("request is not the JSON it should be: %w", err)
	}
	class, known := ClassOf(r.Verb)
	switch {
	case r.V != Version:
		return Request{}, fmt.Errorf("request has version %d, this Emperor speaks %d", r.V, Version)
	case !known:
		return Request{}, fmt.Errorf("unknown verb %q", clip(string(r.Verb)))
	case len(r.Names) > MaxNames:
		return Request{}, fmt.Errorf("%d names, want at most %d", len(r.Names), MaxNames)
	case r.Timeout < 0 || r.Timeout > MaxTimeout:
		return Request{}, fmt.Errorf("timeout %v: want 0 to %v", r.Timeout, MaxTimeout)
	case r.Verb == Suspend && r.Status != 0 && (r.Status < 400 || r.Status > 599):
		return Request{}, fmt.Errorf("status %d: want 400 to 599", r.Status)
	case r.Verb == Wait && !ValidGoal(r.Goal):
		return Request{}, fmt.Errorf("wait for %q: want applied, gone or a state", clip(r.Goal))
	}
	if r.Verb == Enter && (len(r.Names) != 1 || r.All || isPattern(r.Names[0])) {
		return Request{}, errors.New("enter: the name of one vassal")
	}
	if needsName := class != Read || r.Verb == Wait || r.Verb == Logs || r.Verb == Status; needsName && len(r.Names) == 0 && !r.All {
		return Request{}, fmt.Errorf("%s: which vassal", r.Verb)
	}
	for i, n := range r.Names {
		if _, err := path.Match(n, ""); err != nil || n == "" || len(n) > 4*vassal.MaxName {
			return Request{}, fmt.Errorf("%q is not a name or a pattern", clip(n))
		}
		r.Names[i] = strings.TrimSuffix(n, ".ini")
	}
	r.Began = time.Now()
	return r, nil
}

// ValidGoal reports whether g is something to wait for: "applied", "gone" or a State.
func ValidGoal(g string) bool {
	return g == "applied" || g == "gone" || slices.Contains([]State{Starting, Running, Draining, Backoff, Failed, Stopped, Suspended, Sleeping}, State(g))
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// replies writes the lines of one answer.
type replies struct {
	mu   sync.Mutex
	conn net.Conn
	end  time.Time // of all replies together; zero: not known yet
	bad  bool
}

func (w *replies) send(r Reply) {
	b, err := json.Marshal(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || w.bad {
		return
	}
	due := time.Now().Add(ReplyTime)
	if !w.end.IsZero() && due.After(w.end) {
		due = w.end
	}
	w.conn.SetWriteDeadline(due)
	if _, err := w.conn.Write(append(b, '\n')); err != nil {
		w.bad = true // the rest is for nobody
	}
}

func (w *replies) fail(code int, word, message, hint string) {
	w.send(Reply{Code: code, Done: true, Text: message,
		Problem: &vassal.Problem{Severity: vassal.Error, Code: word, Message: message, Hint: hint}})
}
