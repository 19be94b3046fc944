package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/worker/lang"
)

// loader is the process that loads the application and forks the workers. The
// messages on its control socket, one packet each:
//
//	core → loader: the program, then the parts of it that Python's needs; the
//	               settings as a dict (see lang.Encoder); then one dict for
//	               each worker to fork (worker, serial, slots), with its lanes'
//	               descriptors, or for each side process (also side, number,
//	               run; see side.go)
//	loader → core: words separated by NUL: loaded[, asgi] | failed, why |
//	               forked, serial, pid | exited, pid, status |
//	               files, (path, its mtime in ns, or "now")…: code that was loaded; workers say so too
//
// Its standard error is a pipe of ours until the program runs, so that an
// interpreter that cannot even start is heard.
type loader struct {
	p        *Pool
	pid      int
	conn     *net.UnixConn
	status   <-chan syscall.WaitStatus
	deadline time.Time // to load; zero: it is killed
	loaded   bool
	ending   bool
	silent   bool // nothing more comes from conn
	exit     *syscall.WaitStatus
	early    *tail
	out      *os.File // where early comes from
}

// Descriptors of the loader beyond standard input, output and error, as the
// program names them: control, queue, slots, the real standard error, and the
// door of the services.

// startLoader starts a loader; on failure another try follows, or the end.
func (s *supervisor) startLoader(now time.Time) {
	load, err := s.newLoader(now)
	if err == nil {
		s.load = load
		return
	}
	problem := s.p.lang.NoStart(err)
	if !s.ready {
		s.fail(problem)
		return
	}
	s.loads++
	s.loadAt = now.Add(backoff(s.loads))
	s.p.log.Error("cannot start the application's loader", "err", problem)
}

// maxTold is what one packet of the loader's control socket may hold: less
// than net.core.wmem_default, which is 212,992 bytes with the kernel's own.
const maxTold = 200 << 10

func (s *supervisor) newLoader(now time.Time) (*loader, error) {
	p := s.p
	packets := append(p.lang.Program(), p.settings())
	for _, packet := range packets {
		if len(packet) > maxTold {
			return nil, fmt.Errorf("what the loader has to be told of the application is %d bytes, and may be %d", len(packet), maxTold)
		}
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	defer null.Close()
	conn, other, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer other.Close()
	out, in, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer in.Close()
	path, argv := p.lang.Command()
	files := []uintptr{null.Fd(), p.Stdout.Fd(), in.Fd(), other.Fd(), s.other.Fd(), s.memory.Fd(), p.Stderr.Fd()}
	if p.door != nil {
		files = append(files, p.door.Fd())
	}
	pid, status, err := s.reaper.start(path, argv, &syscall.ProcAttr{
		Env: p.environ(), Files: files,
		// A group of its own: a terminal's Ctrl-C is for the core.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		conn.Close()
		out.Close()
		return nil, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	by := now.Add(p.loadTime())
	load := &loader{p: p, pid: pid, conn: conn, status: status, deadline: by, early: newTail(), out: out}
	p.lanes.Go(func() {
		_, _ = io.Copy(io.MultiWriter(load.early, p.Stderr), out) // where the log is gone, early is still kept
		load.early.close()
	})
	p.exposeToOOM(pid)
	if p.w.Batch {
		batch(pid)
	}
	err = limit(pid, p.w.Rlimits)
	p.lanes.Go(func() {
		if err == nil {
			load.tell(packets, by)
		}
		load.listen()
	})
	if err != nil {
		load.kill()
		<-status
		conn.Close()
		out.Close()
		return nil, err
	}
	return load, nil
}

// tell sends the program and the settings. An interpreter that does not take
// them has ended, which its status says, or is killed when the time to load, at
// by, is over.
func (ld *loader) tell(packets [][]byte, by time.Time) {
	_ = ld.conn.SetWriteDeadline(by)
	for _, packet := range packets {
		if _, err := ld.conn.Write(packet); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				ld.p.log.Error("the application's loader cannot be told its program", "pid", ld.pid, "err", err)
			}
			return
		}
	}
	_ = ld.conn.SetWriteDeadline(time.Time{})
}

// listen reads what the loader says.
func (ld *loader) listen() {
	buf := make([]byte, 64<<10)
	for {
		n, err := ld.conn.Read(buf)
		if err != nil || n == 0 {
			ld.p.post(event{kind: evControlEnd, load: ld})
			return
		}
		ld.p.post(event{kind: evControl, load: ld, text: string(buf[:n])})
	}
}

// fork has the loader fork pr with the given descriptors as its lanes.
func (ld *loader) fork(pr *proc, fds []int) error {
	return ld.order([]lang.Entry{{Name: "worker", Value: pr.number},
		{Name: "serial", Value: int(pr.serial)}, {Name: "slots", Value: pr.slots}}, fds)
}

// order has the loader fork a process.
func (ld *loader) order(entries []lang.Entry, fds []int) error {
	packet := ld.p.lang.Dict(nil, entries)
	if err := ld.conn.SetWriteDeadline(time.Now().Add(laneTimeout)); err != nil {
		return err
	}
	_, _, err := ld.conn.WriteMsgUnix(packet, unix.UnixRights(fds...), nil)
	return err
}

func (ld *loader) kill() { _ = unix.Kill(ld.pid, unix.SIGKILL) } // reaped only after status was taken

// end ends the loader and what the application has started in its group.
func (ld *loader) end() {
	ld.ending = true
	_ = unix.Kill(-ld.pid, unix.SIGKILL)
	ld.kill()
}

// control obeys one message of the loader.
func (s *supervisor) control(ld *loader, text string) {
	words := strings.Split(text, "\x00")
	number := func(i int) int {
		if i >= len(words) {
			return -1
		}
		n, err := strconv.Atoi(words[i])
		if err != nil {
			return -1
		}
		return n
	}
	switch words[0] {
	case "loaded":
		ld.loaded = true
		if len(words) > 1 && words[1] == "asgi" {
			s.p.widen()
		}
		s.loads = 0
		if s.crew.want == 0 && !s.ready && !s.stopping { // cheap
			s.ready = true
			s.p.ready <- nil
		}
	case "failed":
		_, why, _ := strings.Cut(text, "\x00")
		problem := s.p.lang.Problem(why)
		if !s.ready {
			s.fail(problem)
			return
		}
		s.p.log.Error("the application does not load any more", "err", problem)
	case "files":
		s.p.code.add(words[1:])
	case "forked":
		if x := s.sideBySerial(uint64(number(1))); x != nil && x.load == ld && x.claimed == 0 {
			s.sideForked(x, number(2))
		} else if pr := s.procs[uint64(number(1))]; pr != nil && pr.load == ld && pr.claimed == 0 {
			s.forked(pr, number(2))
		}
	case "exited":
		pid := number(1)
		for _, x := range s.p.sides {
			if x.serial != 0 && x.load == ld && x.claimed == pid && pid > 0 {
				ws := syscall.WaitStatus(number(2))
				s.sideGone(x, &ws)
				return
			}
		}
		for _, pr := range s.procs {
			if pr.load == ld && pr.claimed == pid && pid > 0 {
				ws := syscall.WaitStatus(number(2))
				s.exited(pr, &ws)
				return
			}
		}
	}
}

// forked takes note of a worker's pid. It is the loader's word, so a process
// that is not the loader's child is not believed.
func (s *supervisor) forked(pr *proc, pid int) {
	pr.claimed = pid
	if pid <= 1 || pid == os.Getpid() || parentOf(pid) != pr.load.pid {
		return
	}
	pr.pid.Store(int64(pid))
	stats := &s.p.stats[pr.number-1]
	stats.pid.Store(int64(pid))
	stats.spawned.Store(pr.born.UnixNano())
	stats.delta.Store(0)
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		pr.pidfd = fd
	}
	place(pid, pr.number, s.p.w.CPUAffinity)
	if pr.why != "" || s.stopping && s.err != nil {
		pr.kill()
	}
}

// parentOf is the parent of process pid, 0 if there is none or /proc does not
// say.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// loaderExited takes note of the status; what the loader said before is still
// to be read.
func (s *supervisor) loaderExited(ws syscall.WaitStatus) {
	ld := s.load
	ld.exit, ld.status = &ws, nil
	endInput(ld.conn)
	if ld.silent {
		s.loaderEnded(ws)
	}
}

// loaderEnded takes note of the loader's end. Its workers serve on; a new
// loader is needed to replace one that dies.
func (s *supervisor) loaderEnded(ws syscall.WaitStatus) {
	ld := s.load
	s.load = nil
	ld.conn.Close()
	if !s.ready {
		ld.early.wait(partingTime) // a child of it may hold the pipe
	}
	ld.out.Close()
	now := time.Now()
	for _, pr := range s.procs {
		if pr.load == ld && pr.claimed == 0 {
			pr.partBy = now.Add(partingTime) // it was never born
		}
	}
	s.orphanSides(ld)
	if s.stopping {
		return
	}
	how := ended(&ws)
	if !s.ready {
		s.fail(s.p.lang.LoaderDied(how, ld.early.String(), ld.loaded))
		return
	}
	s.loads++
	s.loadAt = now.Add(backoff(s.loads))
	s.p.log.Error("the application's loader died", "pid", ld.pid, "how", how)
}

// tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	b    []byte
	done chan struct{} // closed when no more comes
}

func newTail() *tail { return &tail{done: make(chan struct{})} }

func (t *tail) close() { close(t.done) }

// wait waits until all is written, at most d.
func (t *tail) wait(d time.Duration) {
	select {
	case <-t.done:
	case <-time.After(d):
	}
}

const tailSize = 8 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
