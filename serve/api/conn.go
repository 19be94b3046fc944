package api

import (
	"bufio"
	"context"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// client is one connection of a process. Its goroutine alone uses it.
type client struct {
	h      *Host
	pool   int
	conn   *net.UnixConn
	r      *bufio.Reader
	f      frame
	a      answer
	ctx    context.Context // ends with the Host
	pid    int
	pidfd  int // -1: none
	role   byte
	number int
	hello  bool
	sent   bool // the handler has sent the answer itself
	deadly *time.Timer
	side   *side // of a mule or spooler, once it waits for what comes
	keep   bool  // the buffer holds a big frame's place
}

// smallBuffer is what a connection keeps between two frames.
const smallBuffer = 4 << 10

// converse serves one connection to its end.
func (h *Host) converse(ctx context.Context, pool int, conn *net.UnixConn) {
	c := &client{h: h, pool: pool, conn: conn, r: bufio.NewReaderSize(conn, 1024), ctx: ctx, pid: peerOf(conn), pidfd: -1}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { conn.Close(); close(ended) })
	defer func() {
		if !stop() {
			<-ended
		}
		conn.Close()
		h.locks.leave(c)
		h.sides.leave(c)
		if c.deadly != nil {
			c.deadly.Stop()
		}
		if c.pidfd >= 0 {
			unix.Close(c.pidfd)
		}
	}()
	for c.turn() {
	}
}

// turn serves one frame; false: that was the last.
func (c *client) turn() bool {
	n, err := readSize(c.r)
	if err != nil {
		return false
	}
	if n > bigFrame && !c.room() {
		return false
	}
	defer c.leaveRoom()
	if n > smallBuffer {
		_ = c.conn.SetReadDeadline(time.Now().Add(writeTimeout)) // fails with the read
	}
	if err := c.f.read(c.r, n); err != nil {
		return false
	}
	if n > smallBuffer {
		_ = c.conn.SetReadDeadline(time.Time{})
	}
	if !c.hello && c.f.op != opHello {
		return false
	}
	handler := handlers[c.f.op]
	if handler == nil {
		return false
	}
	c.a.begin(ok)
	c.sent = false
	if !handler(c) {
		return false
	}
	return c.sent || c.send()
}

// send sends the answer.
func (c *client) send() bool {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return false
	}
	_, err := c.conn.Write(c.a.end())
	if cap(c.a.b) > smallBuffer {
		c.a.b = nil
	}
	if cap(c.f.buf) > smallBuffer {
		c.f.buf = nil
	}
	return err == nil
}

// room waits for a big buffer: there are few, and whoever has one must be
// quick.
func (c *client) room() bool {
	if c.keep {
		return true
	}
	select {
	case c.h.big <- struct{}{}:
		c.keep = true
		return true
	case <-c.ctx.Done():
		return false
	}
}

func (c *client) leaveRoom() {
	if c.keep {
		c.keep = false
		<-c.h.big
	}
}

// wait waits for ch; false: the process has left, has sent another frame before
// the answer, or the Host ends. In the meantime somebody must read the
// connection, or nobody would notice.
func (c *client) wait(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
	}
	peeked := make(chan struct{})
	go func() {
		defer close(peeked)
		_, _ = c.r.Peek(1) // a byte ends it as an error does
	}()
	select {
	case <-ch:
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // ends the wait below; a closed one ends it anyway
		<-peeked
		return c.conn.SetReadDeadline(time.Time{}) == nil
	case <-peeked: // it has left; or it sends while it waits, and could not be watched any more
		return false
	}
}

// kill ends the process that made the connection.
func (c *client) kill() {
	if c.pidfd >= 0 {
		_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0) // ESRCH: it is gone
	}
}

// handlers answer requests: false closes the connection.
var handlers = map[byte]func(*client) bool{
	opHello: (*client).greet, opGet: (*client).cacheGet, opExists: (*client).cacheExists, opSet: (*client).cacheSet,
	opDel: (*client).cacheDel, opClear: (*client).cacheClear, opKeys: (*client).cacheKeys, opNumber: (*client).cacheNumber,
	opNum: (*client).cacheNum, opLock: (*client).lock, opUnlock: (*client).unlock, opLocked: (*client).locked,
	opSignal: (*client).raise, opHandle: (*client).handle, opHandled: (*client).handled, opTimer: (*client).addTimer,
	opCron: (*client).addCron, opFile: (*client).addFile, opMule: (*client).toMule, opFarm: (*client).toFarm,
	opNext: (*client).next, opPoke: (*client).poke, opBusy: (*client).busy, opDeadly: (*client).setDeadly,
	opMetric: (*client).metric, opWorkers: (*client).workers, opTotal: (*client).total, opQueue: (*client).queue, opRing: (*client).ring,
	opPids: (*client).pids, opReload: (*client).reload, opStop: (*client).stop, opAlarm: (*client).alarm,
}

// greet takes a process's word for what it is.
func (c *client) greet() bool {
	n, numbered := c.f.small(1, 0, 1<<15)
	if c.hello || len(c.f.fields) < 2 || len(c.f.fields[0]) != 1 || !numbered || c.pid <= 1 {
		return false
	}
	c.hello, c.role, c.number = true, c.f.fields[0][0], n
	return true
}

// self opens the process, so that it can be killed and no other. A pair that
// this very process has made, and that came back through the door, is nobody's.
func (c *client) self() bool {
	if c.pid == os.Getpid() {
		return false
	}
	if c.pidfd < 0 {
		fd, err := unix.PidfdOpen(c.pid, 0)
		if err != nil {
			return false
		}
		c.pidfd = fd
	}
	return true
}

// setDeadly kills the process later, unless it takes that back: uWSGI's
// set_user_harakiri.
func (c *client) setDeadly() bool {
	n, good := c.f.small(0, 0, 1<<30)
	if !good || !c.self() {
		return false
	}
	if c.deadly != nil {
		c.deadly.Stop()
		c.deadly = nil
	}
	if n > 0 {
		fd, pid := c.pidfd, c.pid
		c.deadly = time.AfterFunc(time.Duration(n)*time.Second, func() {
			c.h.log.Error("harakiri: a process has taken longer than it allowed itself", "pid", pid, "seconds", n)
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // ESRCH: it is gone
		})
	}
	return true
}
