package serve

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
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
// so that what reads those goes on to work. The number of headers and their
// bytes, switches and core are not known to the core and are left out; a
// request that was cut short ends in its reason. A client cannot write a line
// or a part of one: bytes outside printable ASCII, and spaces inside a value,
// are written as \xNN, and so are quotes. With log-format the line is as that
// says; in it spaces of values are kept.
//
// A request never waits for its line: the lines are handed to one goroutine,
// and when whoever reads the log is too slow, lines are dropped and counted.
type accessLog struct {
	off    bool
	format []piece // empty: the line above
	path   string  // logto; empty: out
	pid    int

	mu      sync.Mutex
	pending []byte
	dropped int
	wake    chan struct{}

	outMu sync.Mutex // guards out against reopen
	out   io.Writer
	file  *os.File // owned; nil when out is not ours
}

func newAccessLog(f vassal.LogFormat, out io.Writer) *accessLog {
	return &accessLog{off: f.Disable, format: compile(f.Format), path: f.To, pid: os.Getpid(), wake: make(chan struct{}, 1), out: out}
}

// request writes the line of r, the n-th request.
func (l *accessLog) request(r *exchange.Request, n uint64, took time.Duration) {
	if l.off && r.Info.Status < 500 {
		return // disable-logging: failures of the server are still written, as in uWSGI
	}
	l.mu.Lock()
	if len(l.pending) > maxPending {
		l.dropped++
		l.mu.Unlock()
		return
	}
	if len(l.format) > 0 {
		line := logLine{r, n, took, l.pidOf(r)}
		for _, p := range l.format {
			l.pending = p(l.pending, &line)
		}
		l.pending = append(l.pending, '\n')
	} else {
		l.pending = l.appendLine(l.pending, r, n, took)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// pidOf is the process that answered: the worker, else the core itself.
func (l *accessLog) pidOf(r *exchange.Request) int {
	if r.Info.PID > 0 {
		return r.Info.PID
	}
	return l.pid
}

func (l *accessLog) appendLine(b []byte, r *exchange.Request, n uint64, took time.Duration) []byte {
	size := 0
	for i := range r.Vars {
		size += len(r.Vars[i].Name) + len(r.Vars[i].Value) + 4
	}
	app := -1
	if r.Info.Worker > 0 {
		app = 0
	}
	b = append(b, "[pid: "...)
	b = strconv.AppendInt(b, int64(l.pidOf(r)), 10)
	b = append(b, "|app: "...)
	b = strconv.AppendInt(b, int64(app), 10)
	b = append(b, "|req: "...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, '/')
	b = strconv.AppendUint(b, n, 10)
	b = append(b, "] "...)
	b = quote(b, r.Get("REMOTE_ADDR"))
	b = append(b, " ("...)
	b = quote(b, r.Get("REMOTE_USER"))
	b = append(b, ") {"...)
	b = strconv.AppendInt(b, int64(len(r.Vars)), 10)
	b = append(b, " vars in "...)
	b = strconv.AppendInt(b, int64(size), 10)
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
	b = append(b, " msecs ("...)
	b = quote(b, orDash(r.Get("SERVER_PROTOCOL")))
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(r.Info.Status), 10)
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

// write writes all that is pending, in whole lines.
func (l *accessLog) write() {
	l.mu.Lock()
	b, dropped := l.pending, l.dropped
	l.pending, l.dropped = nil, 0
	l.mu.Unlock()
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
		b = b[n:]
	}
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
	// O_NONBLOCK: a FIFO that nobody reads is an error, not a wait.
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	l.outMu.Lock()
	defer l.outMu.Unlock()
	if l.file != nil {
		_ = l.file.Close() // O_APPEND, unbuffered: nothing to lose
	}
	l.file, l.out = f, f
	return nil
}
