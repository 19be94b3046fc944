package serve

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"liege/serve/exchange"
	"liege/vassal"
)

// Limits of the access log.
const (
	maxPending  = 256 << 10 // bytes that wait to be written; more are dropped and counted
	maxLogWrite = 4 << 10   // PIPE_BUF: such a write to the log's FIFO is whole
	logPatience = time.Second
)

// accessLog writes one line for each request, in the form of uWSGI's:
//
//	[pid: 7|app: 0|req: 3/3] 10.0.0.1 () {9 vars in 210 bytes} [Mon Nov 23 03:58:49 2026] GET /a => generated 5 bytes in 2 msecs (HTTP/1.1 200) 2 headers in 51 bytes (1 switches on core 0)
//
// so that what reads those goes on to work. Switches are always 1, and a
// request that was cut short ends in its reason. A client cannot write a line
// or a part of one: bytes outside printable ASCII, and spaces inside a value,
// are written as \xNN, and so are quotes. With log-format the line is as that
// says; in it spaces of values are kept, and where it begins with "{" values
// are escaped as JSON wants it. With log-json a line is an object of its own.
//
// A request never waits for its line: the lines are handed to one goroutine,
// and when whoever reads the log is too slow, lines are dropped and counted.
type accessLog struct {
	off    bool
	only   vassal.LogOnly
	client string // the variable with the client's address
	json   bool
	format []piece // empty: the line above
	path   string  // logto; empty: out
	pid    int

	mu      sync.Mutex
	pending []byte
	spare   []byte // the other buffer, of the goroutine that writes
	dropped int
	wake    chan struct{}

	outMu sync.Mutex // guards out against reopen
	out   io.Writer
	file  *os.File // owned; nil when out is not ours

	sieve    *sieve // nil: every line is kept
	encoders []lineEncoder

	fallback   io.Writer // where what concerns the file is said
	max        int64     // bytes after which the file is renamed; 0: never
	backupName string    // empty: the file's and the time
	size       int64     // of the file, about
	looked     time.Time // when it was looked after
	unopened   error     // why it could not be opened at the start
}

func newAccessLog(f vassal.LogFormat, out io.Writer) *accessLog {
	l := &accessLog{off: f.Disable, only: f.Only, client: "REMOTE_ADDR", json: f.JSON, path: f.To, pid: os.Getpid(), wake: make(chan struct{}, 1), out: out}
	if f.Forwarded {
		l.client = "HTTP_X_FORWARDED_FOR"
	}
	l.format = compile(f.Format)
	l.fallback, l.max, l.backupName = out, f.MaxSize, f.Backup
	l.sieve, l.encoders = newSieve(f), encoders(f.Encoders)
	return l
}

// request writes the line of r, the n-th request.
func (l *accessLog) request(r *exchange.Request, n uint64, took time.Duration) {
	if r.Info.Quiet || l.off && !l.wanted(&r.Info, took) {
		return
	}
	l.mu.Lock()
	if len(l.pending) > maxPending {
		l.dropped++
		l.mu.Unlock()
		return
	}
	from := len(l.pending)
	if len(l.format) > 0 {
		line := logLine{l, r, n, took, l.pidOf(r)}
		for _, p := range l.format {
			l.pending = p(l.pending, &line)
		}
		l.pending = append(l.pending, '\n')
	} else if l.json {
		l.pending = l.appendJSON(l.pending, r, n, took)
	} else {
		l.pending = l.appendLine(l.pending, r, n, took)
	}
	if l.sieve != nil || len(l.encoders) > 0 {
		l.finish(from, r.Start)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// wanted reports whether a request is written although logging is disabled:
// failures of the server are, as in uWSGI, and what the file asks for.
func (l *accessLog) wanted(i *exchange.Info, took time.Duration) bool {
	o := &l.only
	return i.Status >= 500 || o.Client && i.Status >= 400 || o.Slow > 0 && took >= o.Slow || o.Zero && i.Bytes == 0 ||
		o.Big > 0 && i.Bytes >= o.Big || o.Sendfile && i.File || o.IOError && i.Err != nil && i.Status < 400
}

// addr is the client's address, as far as the file trusts who says it.
func (l *accessLog) addr(r *exchange.Request) string {
	if a := r.Get(l.client); a != "" {
		return a
	}
	return r.Get("REMOTE_ADDR")
}

// pidOf is the process that answered: the worker, else the core itself.
func (l *accessLog) pidOf(r *exchange.Request) int {
	if r.Info.PID > 0 {
		return r.Info.PID
	}
	return l.pid
}

func (l *accessLog) appendLine(b []byte, r *exchange.Request, n uint64, took time.Duration) []byte {
	app := -1
	if r.Info.Worker > 0 {
		app = 0
	}
	b = append(b, "[pid: "...)
	b = strconv.AppendInt(b, int64(l.pidOf(r)), 10)
	b = append(b, "|app: "...)
	b = strconv.AppendInt(b, int64(app), 10)
	b = append(b, "|req: "...)
	b = strconv.AppendUint(b, cmp.Or(r.Info.Seq, n), 10)
	b = append(b, '/')
	b = strconv.AppendUint(b, n, 10)
	b = append(b, "] "...)
	b = quote(b, l.addr(r))
	b = append(b, " ("...)
	b = quote(b, r.Get("REMOTE_USER"))
	b = append(b, ") {"...)
	b = strconv.AppendInt(b, int64(len(r.Vars)), 10)
	b = append(b, " vars in "...)
	b = strconv.AppendInt(b, varsSize(r), 10)
	b = append(b, " bytes} ["...)
	b = r.Start.AppendFormat(b, time.ANSIC)
	b = append(b, "] "...)
	b = quote(b, orDash(r.Get("REQUEST_METHOD")))
	b = append(b, ' ')
	b = quote(b, orDash(r.Get("REQUEST_URI")))
	b = append(b, " => generated "...)
	b = strconv.AppendInt(b, r.Info.Bytes, 10)
	b = append(b, " bytes in "...)
	b = strconv.AppendInt(b, took.Milliseconds(), 10)
	b = append(b, " msecs "...)
	if r.Info.File {
		b = append(b, "via sendfile() "...)
	}
	b = append(b, '(')
	b = quote(b, orDash(r.Get("SERVER_PROTOCOL")))
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(r.Info.Status), 10)
	b = append(b, ") "...)
	b = strconv.AppendInt(b, int64(r.Info.Fields), 10)
	b = append(b, " headers in "...)
	b = strconv.AppendInt(b, int64(r.Info.Head), 10)
	b = append(b, " bytes (1 switches on core "...)
	b = strconv.AppendInt(b, int64(r.Info.Thread), 10)
	b = append(b, ')')
	if r.Info.Err != nil && r.Info.Status != 404 {
		b = append(b, ' ')
		b = quoteText(b, r.Info.Err.Error())
	}
	return append(b, '\n')
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// maxLogged bounds one value of a line, in bytes.
const maxLogged = 2 << 10

// quote appends s so that it is one word of one line.
func quote(b []byte, s string) []byte { return escape(b, s, ' '+1) }

// quoteText appends s so that it stays on one line.
func quoteText(b []byte, s string) []byte { return escape(b, s, ' ') }

func escape(b []byte, s string, least byte) []byte {
	const hex = "0123456789abcdef"
	for i := range min(len(s), maxLogged) {
		c := s[i]
		if c < least || c >= 0x7f || c == '\\' || c == '"' {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
			continue
		}
		b = append(b, c)
	}
	if len(s) > maxLogged {
		b = append(b, "..."...)
	}
	return b
}

// start opens the file of the log and starts the goroutine that writes. The
// function it returns writes what is left and waits for it, but not for ever.
func (l *accessLog) start() (stop func()) {
	if l.path != "" {
		if err := l.reopen(); err != nil {
			l.unopened = err
			l.mu.Lock()
			l.pending = fmt.Appendf(l.pending, "access log: %v; writing here instead\n", err)
			l.mu.Unlock()
			l.wake <- struct{}{}
		}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-l.wake:
				l.write()
			case <-quit:
				l.write()
				return
			}
		}
	}()
	return func() {
		close(quit)
		t := time.NewTimer(logPatience)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C: // nobody reads the log any more; the process ends now
		}
	}
}

// maxSpare is what is kept of a buffer for the next lines.
const maxSpare = 64 << 10

// write writes all that is pending, in whole lines.
func (l *accessLog) write() {
	l.mu.Lock()
	b, dropped := l.pending, l.dropped
	l.pending, l.dropped = l.spare, 0
	l.mu.Unlock()
	if l.spare = nil; cap(b) <= maxSpare {
		l.spare = b[:0] // both are filled in turn
	}
	if dropped > 0 {
		b = fmt.Appendf(b, "access log: %d lines dropped: whoever reads the log is too slow\n", dropped)
	}
	l.outMu.Lock()
	defer l.outMu.Unlock()
	for len(b) > 0 {
		n := wholeLines(b)
		if _, err := l.out.Write(b[:n]); err != nil {
			return // no place to say so
		}
		l.size += int64(n)
		b = b[n:]
	}
	l.lookAfter(time.Now())
}

// wholeLines returns how many bytes of b to write at once: as many lines as
// fit, or one that is longer.
func wholeLines(b []byte) int {
	if len(b) <= maxLogWrite {
		return len(b)
	}
	for i := maxLogWrite - 1; i > 0; i-- {
		if b[i] == '\n' {
			return i + 1
		}
	}
	for i := maxLogWrite; i < len(b); i++ {
		if b[i] == '\n' {
			return i + 1
		}
	}
	return len(b)
}

// reopen opens the file of the log anew. Without one it does nothing.
func (l *accessLog) reopen() error {
	if l.path == "" {
		return nil
	}
	l.outMu.Lock()
	defer l.outMu.Unlock()
	return l.open()
}
