package relay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser/become"
)

// Main is liege-relay. It returns the exit status.
func Main() int {
	// Before anything is received: nothing of the same user traces it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fail(err)
	}
	if len(os.Args) != 1 {
		return fail(errors.New("it is started by liege-emperor, not by hand"))
	}
	if err := become.User(); err != nil {
		return fail(err)
	}
	cfg, fds, err := receive(Channel)
	if err != nil {
		return fail(err)
	}
	var counts *meter
	if cfg.Meter {
		if counts, err = newMeter(fds[len(cfg.Doors)]); err != nil {
			return fail(err)
		}
	}
	if err := confine(cfg); err != nil {
		return fail(err)
	}
	s, err := newServer(cfg, fds[:len(cfg.Doors)], os.Stderr)
	if err != nil {
		return fail(err)
	}
	s.meter = counts
	finish := make(chan os.Signal, 1)
	signal.Notify(finish, Finish)
	if err := s.run(os.NewFile(Channel, "channel"), finish); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "liege-relay:", err)
	return 1
}

// receive reads the configuration and the listeners.
func receive(channel int) (*Config, []int, error) {
	buf, oob := make([]byte, MaxConfig+1), make([]byte, unix.CmsgSpace(4*(maxDoors+1)))
	n, oobn, flags, _, err := unix.Recvmsg(channel, buf, oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(channel, buf, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("channel: %w", err)
	}
	if n == 0 {
		return nil, nil, errors.New("channel: ended")
	}
	cfg, err := Decode(buf[:n])
	if err != nil {
		return nil, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, fmt.Errorf("channel: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return nil, nil, fmt.Errorf("channel: %w", err)
		}
		fds = append(fds, got...)
	}
	want := len(cfg.Doors)
	if cfg.Meter {
		want++
	}
	if len(fds) != want || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, nil, fmt.Errorf("channel: %d listeners for %d doors", len(fds), len(cfg.Doors))
	}
	return cfg, fds, nil
}

// confine sets this process's limits and loads the filter on all its threads.
// no_new_privs was set by who started it. Fewer connections fit where the limit
// of descriptors is low.
func confine(cfg *Config) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	const spare = 32
	files := uint64(2*cfg.Conns + len(cfg.Doors) + spare)
	if files > have.Max {
		files = have.Max
		cfg.Conns = max(1, (int(have.Max)-len(cfg.Doors)-spare)/2)
	}
	for _, l := range []struct {
		what int
		n    uint64
	}{{unix.RLIMIT_NOFILE, files}, {unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_MEMLOCK, 0}} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.n, Max: l.n}); err != nil {
			return fmt.Errorf("limit %d: %w", l.what, err)
		}
	}
	if len(cfg.Filter) == 0 {
		return nil
	}
	prog := unix.SockFprog{Len: uint16(len(cfg.Filter)), Filter: &cfg.Filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// server accepts connections.
type server struct {
	doors  []Door
	in     []*conn // listeners
	slots  chan struct{}
	mails  chan struct{} // those that are with a mail server
	meter  *meter        // nil: no rate
	conns  sync.WaitGroup
	over   atomic.Bool
	report *reporter
}

func newServer(cfg *Config, fds []int, to io.Writer) (*server, error) {
	// Each door holds a slot while it waits for somebody.
	s := &server{doors: cfg.Doors, slots: make(chan struct{}, cfg.Conns+len(cfg.Doors)), mails: make(chan struct{}, MailConns), report: newReporter(to)}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
		c, err := newConn(fd, unix.AF_UNIX) // options of a listener are its maker's
		if err != nil {
			return nil, err
		}
		s.in = append(s.in, c)
	}
	return s, nil
}

// run serves until it is told to finish and the last connection has ended.
func (s *server) run(channel *os.File, finish <-chan os.Signal) error {
	var doors sync.WaitGroup
	for i := range s.doors {
		doors.Go(func() { s.accept(s.doors[i], s.in[i]) })
	}
	if _, err := channel.WriteString(Ready); err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	<-finish
	s.over.Store(true)
	for _, l := range s.in {
		l.close()
	}
	doors.Wait()
	s.conns.Wait()
	s.report.close()
	return nil
}

// again is how long accept waits when the system is out of something.
const again = 20 * time.Millisecond

// gone are the errors of accept(2) that are about one connection.
var gone = []error{unix.ECONNABORTED, unix.EINTR, unix.EPROTO, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ETIMEDOUT}

// accept lets in what comes through one door, until the listener is closed.
func (s *server) accept(d Door, l *conn) {
	family, _, _ := d.sockaddr() // was good before
	for {
		s.slots <- struct{}{}
		fd, err := l.accept()
		switch {
		case err == nil:
			s.conns.Go(func() {
				defer func() { <-s.slots }()
				s.serve(d, fd, family)
			})
			continue
		case s.over.Load(): // the listener is closed
			<-s.slots
			return
		case !slices.ContainsFunc(gone, func(e error) bool { return errors.Is(err, e) }):
			s.report.say(d.Address, err)
			time.Sleep(again)
		}
		<-s.slots
	}
}

func (c *conn) accept() (fd int, err error) {
	werr := c.raw.Read(func(l uintptr) bool {
		fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN)
	})
	if werr != nil {
		return -1, werr
	}
	return fd, err
}

// serve is one connection.
func (s *server) serve(d Door, fd, family int) {
	client, err := newConn(fd, family)
	if err != nil {
		s.report.say(d.Address, err)
		return
	}
	if d.Mail != nil {
		s.mails <- struct{}{}
		s.serveMail(d, client)
		<-s.mails
		return
	}
	service, err := d.dial()
	if err != nil {
		client.reset()
		s.report.say(d.Address, err)
		return
	}
	join(client, service)
}
