// Package door is the Emperor's side of a relay (package relay): it starts
// liege-relay for one generation of a vassal, starts it again when it dies, and
// ends it.
//
//	r, err := door.Open(ctx, door.Spec{Gate: gate, …})   // accepts when Open returns
//	…
//	r.Close()   // what the vassal said is passed on first
//
// The Emperor keeps the listeners, so that connections wait while another relay
// is started. Of a survivor of a killed Emperor only the gate is known: the relay
// goes on serving, and gate.Close ends it with its generation.
package door

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser"
	"liege/relay"
	"liege/sandbox"
)

// Conns is how many connections of one generation live at once.
const Conns = 2048

// Spec says what to start.
type Spec struct {
	Program string // liege-relay
	Who     asuser.Who
	Context string // SELinux context of the process; empty: as the policy has it
	Doors   []relay.Door
	Filter  []unix.SockFilter
	Gate    *sandbox.Gate
	Meter   *os.File                         // whose it is like the gate; nil: no rate
	Stderr  *os.File                         // the vassal's log; duplicated
	Note    func(format string, args ...any) // into the vassal's log
}

// Relay is one generation's relay.
type Relay struct {
	spec   Spec
	stderr *os.File
	ctx    context.Context // done by Close
	stop   context.CancelFunc
	done   chan struct{} // closed when no process is left that is waited for
	once   sync.Once
	err    error
}

// Patience.
const (
	startTime = 10 * time.Second // from exec until it accepts
	firstWait = 50 * time.Millisecond
	mostWait  = 5 * time.Second
)

// Open starts the relay and returns when it accepts. The gate is Close's from
// then on; if Open fails it is the caller's.
func Open(ctx context.Context, spec Spec) (*Relay, error) {
	r := &Relay{spec: spec, done: make(chan struct{})}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	var p *process
	var err error
	if r.stderr, err = dup(spec.Stderr); err == nil {
		p, err = r.start(ctx)
	}
	if err != nil {
		r.stop()
		if r.stderr != nil {
			r.stderr.Close()
		}
		return nil, fmt.Errorf("relay: %w", err)
	}
	go r.keep(p)
	return r, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Close ends the relay: connections that the vassal's end has closed are let
// finish for a moment. It returns when nothing is left.
func (r *Relay) Close() error {
	r.once.Do(func() {
		r.stop()
		<-r.done
		r.err = r.spec.Gate.Close()
		for _, f := range []*os.File{r.stderr, r.spec.Meter} {
			if f != nil {
				r.err = errors.Join(r.err, f.Close())
			}
		}
	})
	return r.err
}

// keep has a relay run until Close: the next one when it ends by itself.
func (r *Relay) keep(p *process) {
	defer close(r.done)
	wait := firstWait
	for {
		if p != nil {
			started := time.Now()
			if r.watch(p) {
				return
			}
			if time.Since(started) > mostWait {
				wait = firstWait
			}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, mostWait)
		var err error
		if p, err = r.start(r.ctx); err != nil && r.ctx.Err() == nil {
			r.spec.Note("connect: the relay does not start: %v", err)
		}
	}
}

// watch waits for the end of p; over tells that it was asked for.
func (r *Relay) watch(p *process) (over bool) {
	defer p.channel.Close()
	select {
	case <-p.ended:
		r.spec.Note("connect: the relay ended (%v) and is started again", p.cmd.ProcessState)
		return false
	case <-r.ctx.Done():
	}
	_ = p.cmd.Process.Signal(relay.Finish) // an error says that it has ended
	select {
	case <-p.ended:
	case <-time.After(sandbox.RelayTime):
		_ = p.cmd.Process.Kill() // as above
		<-p.ended
	}
	return true
}

// process is one liege-relay.
type process struct {
	cmd     *exec.Cmd
	channel *os.File
	ended   chan struct{}
}

// newProcess makes the channel. The relay's end blocks: it waits for its first
// packet.
func newProcess() (p *process, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "relay")
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		theirs.Close()
		return nil, nil, err
	}
	return &process{channel: os.NewFile(uintptr(pair[0]), "relay"), ended: make(chan struct{})}, theirs, nil
}

// start starts a relay and waits until it accepts.
func (r *Relay) start(ctx context.Context) (*process, error) {
	cfg := relay.Config{Doors: r.spec.Doors, Conns: Conns, Filter: r.spec.Filter, Meter: r.spec.Meter != nil}
	text, err := cfg.Encode()
	if err != nil {
		return nil, err
	}
	p, theirs, err := newProcess()
	if err != nil {
		return nil, err
	}
	p.cmd = &exec.Cmd{Path: r.spec.Program, Args: []string{"liege-relay"}, Dir: "/", Stderr: r.stderr, ExtraFiles: []*os.File{theirs},
		Env: []string{"GOMAXPROCS=2", "GOTRACEBACK=none", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}}
	err = r.spec.Gate.Start(p.cmd, func(cmd *exec.Cmd) error { return asuser.StartProgram(cmd, r.spec.Who, r.spec.Context) })
	theirs.Close()
	if p.cmd.Process == nil {
		p.channel.Close()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // the state is asked for later
		close(p.ended)
	}()
	if err == nil {
		give := r.spec.Gate.Listeners
		if cfg.Meter {
			give = append(slices.Clip(give), r.spec.Meter)
		}
		err = p.tell(ctx, text, give)
	}
	if err != nil {
		_ = p.cmd.Process.Kill() // an error says that it has ended
		<-p.ended
		p.channel.Close()
		return nil, err
	}
	return p, nil
}

// tell sends the configuration and its files and waits for the answer.
func (p *process) tell(ctx context.Context, text []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	raw, err := p.channel.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	}); err != nil || sent != nil {
		return errors.Join(err, sent)
	}
	if err := p.channel.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.channel.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64)
	n, err := p.channel.Read(buf)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("it gave no answer: %w", err)
	case string(buf[:n]) != relay.Ready:
		return fmt.Errorf("it answered %q", buf[:n])
	}
	return p.channel.SetReadDeadline(time.Time{})
}
