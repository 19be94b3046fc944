// Package api is what the application's processes ask of the core: uWSGI's
// caches, locks, signals, timers, messages between processes and metrics, which
// the uwsgi module of their language offers. All of it belongs to the vassal
// and outlives a worker.
//
// A Host is one generation's. Each pool of workers hands the other end of a
// door to its processes; a process hands one end of a fresh socket pair
// through it and asks there. See wire.go for what is said.
//
//	h := api.New(app, caches, pool, log)
//	defer h.Close()
//	pool.Attach(h)             // Door for each pool
//	go h.Run(ctx)              // answers until ctx ends
//	go h.Jobs(ctx)
//	h.Turn(time.Time{})        // timers, crons and the like may run: no other generation has any
//
// The application's processes are the tenant's and may lie: about who they
// are, what they send and how much. Connections, frames, queues, timers and
// names are bounded; what goes over a bound is refused to whoever asks.
// Who asks is known by the kernel (SO_PEERCRED of the pair is who made it).
//
// A lock is its holder's connection: it ends with the process, or the thread,
// that took it.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/serve/metrics"
	"liege/serve/worker"
	"liege/vassal"
)

// Workers is what a Host needs of the application's pool: *worker.Pool.
type Workers interface {
	// Signal has the handler of a signal run in any free worker of a pool.
	Signal(ctx context.Context, pool, signal int) error
	// Sides says that mules or spoolers may run, Rest ends them and waits for
	// that, and Renew replaces them.
	Sides(kind worker.SideKind)
	Rest(kind worker.SideKind)
	Renew(kind worker.SideKind)
	SideStats() []worker.SideStats
	Attach(worker.Doorman) error
	Stats() exchange.Stats
	// Listen has heard called with the lines that the processes write.
	Listen(heard func(line []byte))
	// OnFault has heard called with a line about a process that ends by a fault.
	OnFault(heard func(text string))
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
}

// Host answers the application's processes.
type Host struct {
	Reload func(pid int) // asks for another generation, as that process wishes; never waits; nil: nobody can
	Stop   func()        // ends the vassal; nil: nobody can
	Queue  func() int    // connections that wait to be accepted; nil: 0
	// Full says which queue of requests is full, for alarm-backlog; empty: none.
	// nil: nobody knows.
	Full   func() string
	Stdout *os.File // of cron commands
	// Metrics are the vassal's; nil: none.
	Metrics *metrics.Set

	app    *vassal.App
	jobs   vassal.Jobs
	caches *cache.Set
	pool   Workers
	log    *slog.Logger

	doors []*door
	conns sync.WaitGroup
	open  atomic.Int64
	big   chan struct{}
	turn  chan struct{} // closed when jobs may run
	once  sync.Once
	since time.Time    // set with turn: up to which minute another generation has seen to crons
	until atomic.Int64 // the same of this one, in seconds since 1970; 0: it has not begun

	relieved atomic.Bool // another generation takes over

	locks   locks
	ring    ring
	boxes   boxes
	signals signals
	alarms  alarms
	crons   []cronState
	sides   sides
}

// door is where the processes of one pool come in.
type door struct {
	pool int
	conn *net.UnixConn
	out  *os.File // the processes' end
}

// New makes the Host of app. It starts nothing.
func New(app *vassal.App, caches *cache.Set, pool Workers, log *slog.Logger) *Host {
	h := &Host{app: app, caches: caches, pool: pool, log: log, Stdout: os.Stderr,
		big: make(chan struct{}, maxBig), turn: make(chan struct{})}
	if app.Jobs != nil {
		h.jobs = *app.Jobs
	}
	h.locks.init(h.jobs.Locks)
	h.ring.init(h.jobs.Queue)
	h.boxes.init(&h.jobs)
	h.signals.init()
	h.alarms.init(&h.jobs)
	if len(h.alarms.lines) > 0 {
		pool.Listen(h.line)
	}
	if len(h.jobs.OnCrash) > 0 {
		pool.OnFault(h.alarms.fault)
	}
	h.sides.init()
	for i := range h.jobs.Timers {
		t := &h.jobs.Timers[i]
		_ = h.signals.addTimer(timer{pool: 0, signal: t.Signal, every: t.Every}) // the file's are few
	}
	h.crons = make([]cronState, len(h.jobs.Crons))
	return h
}

// MakeSpools makes the directories of spoolers that are not there, as uWSGI
// does. An error is a *vassal.Problem that names the line.
func (h *Host) MakeSpools() error {
	for i := range h.jobs.Spoolers {
		s := &h.jobs.Spoolers[i]
		if err := os.MkdirAll(s.In(h.app.Dir), 0o750); err != nil {
			return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotVisible, File: s.At.File, Line: s.At.Line, Key: "spooler", Step: "spooler",
				Message: err.Error(), Hint: "the app's user must be able to write there"}
		}
	}
	return nil
}

// Door makes the door of a pool, the first of which is 0, and returns the end
// that its processes inherit. The Host closes it.
func (h *Host) Door(pool int) (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair for the application's processes: %w", err)
	}
	own, other := os.NewFile(uintptr(fds[0]), "door"), os.NewFile(uintptr(fds[1]), "door")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		other.Close()
		return nil, fmt.Errorf("socket pair for the application's processes: %w", err)
	}
	h.doors = append(h.doors, &door{pool, conn.(*net.UnixConn), other})
	return other, nil
}

// Turn says that no other generation of the vassal has timers, crons, file
// monitors or spoolers: these may run. since is up to which minute the one
// before has seen to its crons; zero: unknown.
func (h *Host) Turn(since time.Time) {
	h.once.Do(func() {
		h.since = since
		close(h.turn)
		h.pool.Sides(worker.Spooler)
	})
}

// Alone says that no other generation lives: the rest may run too.
func (h *Host) Alone() {
	h.Turn(time.Time{})
	h.pool.Sides(worker.Mule)
}

// Relieved says that another generation takes over, before Jobs is ended.
func (h *Host) Relieved() { h.relieved.Store(true) }

// Rest ends the spoolers once they have finished their tasks.
func (h *Host) Rest() { h.pool.Rest(worker.Spooler) }

// Until is up to which minute crons have been seen to; zero: to none.
func (h *Host) Until() time.Time {
	if s := h.until.Load(); s != 0 {
		return time.Unix(s, 0)
	}
	return time.Time{}
}

// Run answers until ctx ends; then every connection is closed.
func (h *Host) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, d := range h.doors {
		all.Go(func() { h.admit(ctx, d) })
	}
	all.Go(func() { h.runSignals(ctx) })
	all.Go(func() { h.runAlarms(ctx) })
	if h.Full != nil && len(h.jobs.OnFull) > 0 {
		all.Go(func() { h.watchQueue(ctx) })
	}
	if len(h.jobs.OnCrash) > 0 {
		all.Go(func() { h.watchFaults(ctx) })
	}
	<-ctx.Done()
	for _, d := range h.doors {
		d.conn.Close()
	}
	all.Wait()
	h.conns.Wait()
}

// Jobs raises what time and files raise once it is this generation's turn, until
// ctx ends; then it waits until every command that it has started is gone. After
// Relieved these may end in peace, for as long as a drain takes. The pool must
// still run.
func (h *Host) Jobs(ctx context.Context) {
	select {
	case <-h.turn:
		h.runJobs(ctx)
	case <-ctx.Done():
	}
}

// Close gives back what New and Door took.
func (h *Host) Close() {
	for _, d := range h.doors {
		d.conn.Close()
		d.out.Close()
	}
}

// admit takes connections that come through a door.
func (h *Host) admit(ctx context.Context, d *door) {
	b := make([]byte, 16)
	oob := make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oobn, flags, _, err := d.conn.ReadMsgUnix(b, oob)
		if err != nil || n == 0 && oobn == 0 {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				h.log.Error("the door of the application's processes is closed", "err", err)
			}
			return
		}
		conn, err := connection(b[:n], oob[:oobn], flags)
		if err != nil {
			h.log.Debug("services: refused", "err", err)
			continue
		}
		if h.open.Add(1) > maxConns {
			h.open.Add(-1)
			conn.Close()
			h.log.Warn("services: too many connections of the application's processes", "most", maxConns)
			continue
		}
		h.conns.Go(func() {
			defer h.open.Add(-1)
			h.converse(ctx, d.pool, conn)
		})
	}
}

// connection makes a connection of what came through a door.
func connection(b, oob []byte, flags int) (*net.UnixConn, error) {
	var fds []int
	messages, _ := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	var conn *net.UnixConn
	err := errFrame
	if len(fds) == 1 && len(b) == 1 && b[0] == version && flags&unix.MSG_CTRUNC == 0 {
		conn, err = streamOf(fds[0])
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return conn, err
}

// streamOf is a duplicate of fd as a connection, if it is a connected stream
// of Unix sockets.
func streamOf(fd int) (*net.UnixConn, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_UNIX {
		return nil, errFrame
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return nil, errFrame
	}
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening != 0 {
		return nil, errFrame
	}
	unix.CloseOnExec(fd)
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "service")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errFrame
	}
	return u, nil
}

// peerOf is the process that made the connection.
func peerOf(conn *net.UnixConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) { // closed: nobody
		if c, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(c.Pid)
		}
	})
	return pid
}

// writeTimeout is how long a process may leave an answer unread.
const writeTimeout = 30 * time.Second
