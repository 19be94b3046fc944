package cgi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"liege/serve/exchange"
	"liege/serve/worker"
)

// run is one program at work.
type run struct {
	h     *Handler
	s     *script
	r     *exchange.Request
	w     exchange.Response
	slot  int
	local string // where a local redirect leads
	left  int64  // of the body that the answer has named; -1: it says no length

	out    *os.File // what the program says
	by     time.Time
	fed    atomic.Int64 // when the program got something of the body last, unix nanoseconds; hungry: it waits for more; 0: there is none
	killed atomic.Pointer[exchange.StatusError]
}

// hungry is run.fed while the client is waited for.
const hungry = -1

// graceTime is how long a program may go on after its last output, at least.
const graceTime = time.Second

// serve starts the program, feeds it and sends what it says.
func (x *run) serve(ctx context.Context) error {
	stats := &x.h.stats[x.slot]
	now := time.Now()
	stats.since.Store(now.UnixNano())
	if d := x.r.Harakiri(x.h.c.Harakiri); d > 0 {
		x.by = now.Add(d)
	}
	body, p, err := x.start()
	if err != nil {
		return err
	}
	stats.pid.Store(int64(p.PID))
	threads := max(1, x.h.c.Threads)
	i := &x.r.Info
	i.PID, i.Worker, i.Thread, i.Seq = p.PID, x.slot/threads+1, x.slot%threads, uint64(stats.requests.Load())+1
	told := make(chan struct{})
	alone := context.AfterFunc(ctx, func() {
		defer close(told)
		x.killed.CompareAndSwap(nil, &exchange.StatusError{Status: 503, Err: context.Cause(ctx)})
		p.Kill()
		_ = x.out.SetReadDeadline(time.Unix(1, 0)) // ends a read that another process of it holds open
	})
	fed := make(chan struct{})
	if body != nil {
		x.fed.Store(hungry)
		go func() { // ended below
			defer close(fed)
			x.feed(body)
		}()
	}
	err = x.answer()
	if err != nil && !x.h.c.LetRun {
		p.Kill()
	}
	if !alone() {
		<-told // the program's number may be another's once it is waited for
	}
	if body != nil {
		x.stopFeeding(body, fed)
	}
	_ = x.out.Close() // read only
	return x.end(&p, err)
}

// stopFeeding ends feed: the program has said all, so nobody wants the rest of
// the body.
func (x *run) stopFeeding(body *os.File, fed <-chan struct{}) {
	select {
	case <-fed:
		return
	default:
	}
	_ = body.SetWriteDeadline(time.Unix(1, 0)) // makes a write that waits for the program fail
	if c, ok := x.r.Body.(io.Closer); ok {
		_ = c.Close() // makes a read that waits for the client fail
	}
	<-fed
}

// end waits for the program. One that a signal ended, be it for want of memory,
// has not said all, unless it said before how much that is, and has. One that has
// may go on for a while: its place is not free before it has ended, as in uWSGI.
func (x *run) end(p *worker.Process, err error) error {
	patience := time.Now().Add(max(x.h.c.Timeout, graceTime))
	if !x.by.IsZero() && x.by.Before(patience) {
		patience = x.by
	}
	ws, ended := p.Wait(patience)
	if cause := x.killed.Load(); cause != nil && err != nil {
		return cause
	}
	var se *exchange.StatusError
	switch {
	case !ended:
		x.h.log.Warn("CGI: killed: it went on after its answer", "path", x.s.path, "pid", p.PID)
	case err == nil && ws.Signaled() && x.left != 0:
		return refuse(502, "CGI: %s was %s before its answer was whole", x.s.path, how(ws))
	case errors.As(err, &se) && errors.Is(err, errNoHead):
		se.Err = fmt.Errorf("CGI: %s %w (%s)", x.s.path, se.Err, how(ws))
	}
	return err
}

func how(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + ws.Signal().String()
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// start starts the program. body is where the request's body goes to; nil when
// there is none.
func (x *run) start() (body *os.File, p worker.Process, err error) {
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, p, noRoom(err)
	}
	defer theirs.Close()
	stdin := x.h.null
	if x.r.Length != 0 {
		var in *os.File
		if in, body, err = os.Pipe(); err != nil {
			out.Close()
			return nil, p, noRoom(err)
		}
		defer in.Close()
		stdin = in
	}
	prog := &worker.Program{Path: x.s.path, Argv: []string{x.s.path}, Env: x.h.environ(x.r, x.s), Dir: x.s.dir,
		Files: [3]*os.File{stdin, theirs, x.h.stderr}, Limits: x.h.c.Limits}
	if x.s.helper != "" {
		if prog.Path, err = x.h.lookup(x.s.helper); err == nil {
			prog.Argv = []string{x.s.helper, x.s.path}
		}
	}
	if err == nil {
		prog.Argv = append(prog.Argv, arguments(x.r.Get("QUERY_STRING"))...)
		p, err = x.h.start.Start(prog)
	}
	if err != nil {
		out.Close()
		if body != nil {
			body.Close()
		}
		return nil, p, cannotStart(err)
	}
	x.out = out
	return body, p, nil
}

func noRoom(err error) error {
	return exchange.Unavailable(fmt.Errorf("CGI: %w", err))
}

func cannotStart(err error) error {
	status, hint := 500, ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		status = 403
	case errors.Is(err, syscall.ENOEXEC):
		hint = " (no first line that names an interpreter? or write a cgi-helper line)"
	case errors.Is(err, syscall.E2BIG):
		status = 431
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return noRoom(err)
	}
	return refuse(status, "CGI: %w%s", err, hint)
}

// lookup finds a helper in the PATH of the programs, as execvp(3) does.
func (h *Handler) lookup(name string) (string, error) {
	if strings.IndexByte(name, '/') >= 0 {
		return name, nil
	}
	dirs := "/usr/local/bin:/usr/bin:/bin"
	for _, kv := range h.env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		p := path.Join("/", dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("cgi-helper %s: not found in %s", name, dirs)
}

// feed hands the body to the program, and closes its input at the end. A program
// may take its time for what it has, as long as it says something: an input that
// ends would be the whole body to it.
func (x *run) feed(in *os.File) {
	defer in.Close()
	buf := make([]byte, 32<<10)
	for {
		x.fed.Store(hungry)
		n, err := x.r.Body.Read(buf)
		x.fed.Store(time.Now().UnixNano())
		if n > 0 {
			if _, err := in.Write(buf[:n]); err != nil {
				return // it wants no more, or has ended; what it says counts
			}
			x.fed.Store(time.Now().UnixNano())
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				x.cut(err)
			}
			return
		}
	}
}

// cut ends the program because the request's body cannot be read: it must not
// take a part for the whole.
func (x *run) cut(err error) {
	x.killed.CompareAndSwap(nil, &exchange.StatusError{Status: exchange.StatusOf(err), Err: err})
	_ = x.out.SetReadDeadline(time.Unix(1, 0)) // wakes answer, which kills
}

// until is the time d from now, at most the end of the request's time.
func (x *run) until(d time.Duration) time.Time {
	by := time.Now().Add(d)
	if !x.by.IsZero() && x.by.Before(by) {
		return x.by
	}
	return by
}

// Errors of programs.
var (
	errNoHead = errors.New("ended without an answer")
	errBadCGI = errors.New("answered with what is no CGI response")
)

// Read implements io.Reader: what the program says, each pause bounded. While it
// waits for the body it has none.
func (x *run) Read(p []byte) (int, error) {
	n, err := 0, os.ErrDeadlineExceeded
	for d := x.h.c.Timeout; d > 0 && errors.Is(err, os.ErrDeadlineExceeded) && x.killed.Load() == nil; d = x.grace() {
		x.wait(x.until(d))
		n, err = x.out.Read(p)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if cause := x.killed.Load(); cause != nil {
		return n, cause
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		why := fmt.Errorf("CGI: %s says nothing for %v", x.s.path, x.h.c.Timeout)
		if !x.by.IsZero() && !time.Now().Before(x.by) {
			x.h.stats[x.slot].harakiris.Add(1)
			why = fmt.Errorf("CGI: harakiri: %s ran for %v", x.s.path, x.r.Harakiri(x.h.c.Harakiri))
		}
		return n, &exchange.StatusError{Status: 504, Err: why}
	}
	return n, &exchange.StatusError{Status: 502, Err: fmt.Errorf("CGI: %s: %w", x.s.path, err)}
}

// grace is how long the program may still say nothing although its time for that
// is over: the body keeps it waiting, or did. At most 0: no longer.
func (x *run) grace() time.Duration {
	fed := x.fed.Load()
	switch {
	case !x.by.IsZero() && !time.Now().Before(x.by):
		return 0
	case fed == hungry:
		return x.h.c.Timeout
	}
	return x.h.c.Timeout - time.Since(time.Unix(0, fed))
}

// answer sends what the program says.
func (x *run) answer() error {
	in := x.h.readers.Get().(*bufio.Reader)
	in.Reset(x)
	defer func() {
		in.Reset(nil)
		x.h.readers.Put(in)
	}()
	head, err := readHead(in, max(x.h.c.HeadBytes, 4<<10))
	switch {
	case errors.Is(err, io.EOF):
		return &exchange.StatusError{Status: 502, Err: errNoHead}
	case errors.Is(err, errBadCGI):
		return refuse(502, "CGI: %s %w", x.s.path, err)
	case err != nil:
		return err
	}
	if head.local != "" && x.h.whole != nil {
		x.local = head.local
		return nil
	}
	x.left = x.named(head)
	if err := x.w.Head(head.status, head.reason, head.fields); err != nil {
		return err
	}
	return x.body(in)
}

// named is how much body head says there is; -1: it does not say. Of HEAD there
// is none (RFC 9110 9.3.2).
func (x *run) named(h head) int64 {
	for i := range h.fields {
		if !strings.EqualFold(h.fields[i].Name, "Content-Length") {
			continue
		}
		if n, err := strconv.ParseInt(h.fields[i].Value, 10, 64); err == nil && n >= 0 && x.r.Get("REQUEST_METHOD") != "HEAD" {
			return n
		}
		return 0
	}
	return -1
}

// joinTime is how long a little output waits for more, so that the answer of a
// program that ends is sent in one piece.
const joinTime = 2 * time.Millisecond

// body sends the body as it comes: what was said goes out before the next
// pause that lasts.
func (x *run) body(in *bufio.Reader) error {
	for {
		_, err := in.Peek(1)
		if b, _ := in.Peek(in.Buffered()); len(b) > 0 {
			if _, err := x.w.Write(b); err != nil {
				return err
			}
			x.h.stats[x.slot].sent.Add(int64(len(b)))
			if x.left > 0 {
				x.left = max(0, x.left-int64(len(b)))
			}
			if _, err := in.Discard(len(b)); err != nil {
				return err
			}
		}
		if err == nil && !x.more() {
			err = x.w.Flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// more waits a moment for output, and reports whether there is some or its end.
func (x *run) more() bool {
	raw, err := x.out.SyscallConn()
	if err != nil {
		return false
	}
	x.wait(time.Now().Add(joinTime))
	ok := false
	err = raw.Read(func(fd uintptr) bool {
		ok = pending(int(fd))
		return ok
	})
	return ok && err == nil
}

// wait makes a read that is still pending at by fail, or at once when the
// program was killed: whoever kills it says so first and then sets the
// deadline, so one of the two sees the other.
func (x *run) wait(by time.Time) {
	_ = x.out.SetReadDeadline(by) // fails with the read
	if x.killed.Load() != nil {
		_ = x.out.SetReadDeadline(time.Unix(1, 0))
	}
}
