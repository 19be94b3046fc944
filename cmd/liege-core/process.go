package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"liege/serve"
	"liege/serve/control"
	"liege/serve/worker/lang"
	"liege/vassal"
)

// process is the core as a process: it stands between serve.Core, the
// signals and the control channel.
type process struct {
	app       *vassal.App
	listeners []net.Listener
	control   *control.Channel // nil: none
	pool      serve.Application
	core      *serve.Core
	signals   <-chan os.Signal
	log       *slog.Logger
	orphaned  chan struct{}  // closed when the other end of control is gone
	loaded    chan time.Time // capacity 1: when the application was
	serves    atomic.Bool    // it is
	wishes    wishes         // for another generation
}

// start takes over the donated descriptors and builds the core. What goes
// wrong after the channel is open is reported on it.
func start(args []string, signals <-chan os.Signal, log *slog.Logger) (*process, error) {
	a, err := parse(args)
	if err != nil {
		return nil, err
	}
	// Nothing that the core starts may hold what it was donated.
	for fd := firstListener; fd <= max(a.app, a.control); fd++ {
		syscall.CloseOnExec(fd)
	}
	p := &process{signals: signals, log: log, orphaned: make(chan struct{}), loaded: make(chan time.Time, 1), wishes: newWishes()}
	if a.control >= 0 {
		if p.control, err = control.Open(os.NewFile(uintptr(a.control), "control")); err != nil {
			return nil, err
		}
		if err := p.hello(); err != nil {
			return nil, err
		}
	}
	if err := p.build(a); err != nil {
		p.failed(err)
		return nil, err
	}
	return p, nil
}

// errEnded ends a core that was asked to end before it had begun.
var errEnded = errors.New("asked to end")

// hello waits until the Emperor has looked at this process from outside.
func (p *process) hello() error {
	if err := p.control.Send(vassal.Message{Type: vassal.Hello}); err != nil {
		return err
	}
	verified := make(chan error, 1)
	go func() { verified <- p.verified() }() // ends with the message or the channel
	for {
		select {
		case err := <-verified:
			return err
		case s := <-p.signals:
			if s != syscall.SIGUSR1 {
				_ = p.control.Close() // nothing more is said on it
				return errors.Join(errEnded, <-verified)
			}
		}
	}
}

// verified receives until the Emperor says that it has looked.
func (p *process) verified() error {
	for {
		switch m, err := p.control.Receive(); {
		case errors.Is(err, io.EOF):
			return errors.New("control channel: closed before the core was verified")
		case err != nil:
			return err
		case m.Type == vassal.Verified:
			return nil
		case m.Type == vassal.Drain:
			return errEnded
		}
	}
}

func (p *process) build(a arguments) error {
	var err error
	if p.app, err = readApp(a.app); err != nil {
		return err
	}
	if err := guardKeys(p.app); err != nil {
		return err
	}
	if p.app.Dir != "" {
		if err := os.Chdir(p.app.Dir); err != nil {
			return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotVisible, Step: "chdir", Message: err.Error(),
				Hint: lang.AccessHint(err.Error(), "is the directory bound into the sandbox, and may the user enter it?")}
		}
	}
	if p.listeners, err = listeners(p.app.Listen); err != nil {
		return err
	}
	if p.pool, err = newPool(p.app, p.changed, p.log); err != nil {
		return err
	}
	if p.core, err = serve.New(p.app, p.pool, os.Stderr, p.log); err != nil {
		return err
	}
	p.core.OnClosed(p.closed)
	p.core.OnRested(p.rested)
	return nil
}

// run serves until the process is asked to end.
func (p *process) run() error {
	ctx, drain := context.WithCancel(context.Background())
	defer drain()
	p.core.OnWish(func(pid int) { _ = p.asksForReload("the application asks to be reloaded", "pid", pid) }, drain)
	var side, counting sync.WaitGroup
	quit := make(chan struct{})
	side.Go(func() { p.watchSignals(quit, drain) })
	if p.control != nil {
		side.Go(func() { p.receive(drain) })
		side.Go(func() { p.wishes.pass(quit, p.reload) })
		counting.Go(func() { p.count(quit) })
	}
	err := p.core.Run(ctx, p.listeners, p.ready)
	close(quit)
	counting.Wait()
	if err != nil {
		p.failed(err)
	}
	if p.control != nil {
		_ = p.control.Close() // ends receive; all that had to be said was said
	}
	side.Wait()
	return err
}

// watchSignals turns signals into wishes.
func (p *process) watchSignals(quit <-chan struct{}, drain func()) {
	interrupted := false
	for {
		select {
		case <-quit:
			return
		case s := <-p.signals:
			switch s {
			case syscall.SIGUSR1:
				p.printWorkers()
				continue
			case syscall.SIGHUP:
				if p.asksForReload("SIGHUP: reload") {
					continue
				}
			case syscall.SIGINT:
				if interrupted {
					p.log.Warn("interrupted again: the core ends at once")
					os.Exit(1)
				}
				interrupted = true
			}
			drain()
		}
	}
}

// asksForReload passes a wish for another generation, such as a SIGHUP, on to the
// Emperor, which starts that and then drains this one; why, with its args, is for the
// log. Without anybody who could, a core that was started alone drains; one whose
// Emperor is gone serves on.
func (p *process) asksForReload(why string, args ...any) bool {
	if p.control == nil {
		return false
	}
	p.wishes.add(wish{why, args})
	return true
}

// reload sends one wish.
func (p *process) reload(w wish) {
	p.log.Info(w.why, w.args...)
	if err := p.control.Send(vassal.Message{Type: vassal.Reload}); err != nil {
		p.log.Warn("no Emperor is there to reload the vassal", "err", err)
	}
}

// changed asks for another generation because the application's code is not
// what was loaded; one that does not load leaves this one serving.
func (p *process) changed(file string) {
	if !p.asksForReload("the application's code has changed: reload", "file", file) {
		p.log.Warn("the application's code has changed, and nobody is there to reload it", "file", file)
	}
}

// receive obeys the control channel until it is closed; a core that only its
// other end knows of drains then.
func (p *process) receive(drain func()) {
	ends := vassal.EmperorStop
	for {
		m, err := p.control.Receive()
		if err != nil {
			close(p.orphaned)
			if errors.Is(err, io.EOF) {
				p.core.Hook(vassal.EmperorLost)
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				p.log.Warn("the control channel ended", "err", err)
			}
			if p.app.Foreground {
				drain()
			}
			return
		}
		switch m.Type {
		case vassal.Relieved:
			ends = vassal.EmperorReload
			p.core.Relieved()
		case vassal.Drain:
			if p.serves.Load() { // else it was given up while it loaded: the vassal is not stopped
				p.core.Hook(ends)
			}
			drain()
		case vassal.Certificates:
			p.renew(m.File)
		case vassal.Turn:
			var since time.Time
			if m.Until != nil {
				since = *m.Until
			}
			p.core.Turn(since)
		case vassal.Alone:
			p.core.Alone()
		case vassal.Reopen:
			if err := p.core.Reopen(); err != nil {
				p.log.Warn("the access log cannot be opened anew", "err", err)
			}
		}
	}
}

// countEvery is how often counters are sent, if they changed, and restEvery how often
// it is looked whether they did once they have not for dozeAfter: each look wakes
// several threads, and on a host of thousands of vassals most are at rest. A request
// ends that at once.
const (
	countEvery = time.Second
	dozeAfter  = 2 * restAfter // not before memory was given back
	restEvery  = 10 * time.Second
)

// count tells the Emperor what was counted, and when it is gone leaves that for the
// next one.
func (p *process) count(quit <-chan struct{}) {
	t := time.NewTicker(countEvery)
	defer t.Stop()
	var sent vassal.Counts
	quiet := idler{} // it does not sleep before it is awake
	rest := idler{after: restAfter, since: time.Now()}
	untidy := true    // the start has left something
	var tidied uint64 // requests, when memory was given back
	told, orphaned := p.tell, p.orphaned
	still := pace{since: time.Now(), may: p.app.Sleep <= 0}
	for {
		var end, due bool
		select {
		case <-t.C:
		case <-p.core.Woken():
		case at := <-p.loaded:
			quiet = idler{after: p.app.Sleep, since: at}
		case <-orphaned:
			told, orphaned, due = p.leave(), nil, true
		case <-quit:
			end = true
		}
		if still.ripe(time.Now()) {
			p.core.Doze()
		}
		now := p.core.Counts()
		if every := still.next(now != sent, time.Now()); every > 0 {
			t.Reset(every)
		}
		if !end && orphaned != nil && quiet.due(now, time.Now()) {
			_ = p.control.Send(vassal.Message{Type: vassal.Idle}) // who is not there is noticed elsewhere
		}
		if !end && rest.due(now, time.Now()) && (untidy || now.Requests-tidied >= worthTidying) {
			giveBack(now.Requests-tidied >= worthTidying)
			untidy, tidied = false, now.Requests
		}
		if now != sent || due || end {
			err := told(now)
			if err != nil && end && orphaned != nil {
				err = p.leave()(now)
			}
			if err == nil {
				sent = now
			}
		}
		if end {
			return
		}
	}
}

func (p *process) tell(c vassal.Counts) error {
	return p.control.Send(vassal.Message{Type: vassal.Counters, Counts: &c})
}

// leave makes the place for the counts of a core whose Emperor is gone.
func (p *process) leave() func(vassal.Counts) error {
	left, err := control.Leave()
	if err != nil {
		p.log.Warn("nobody will know what is counted from now on", "err", err)
		return func(vassal.Counts) error { return nil }
	}
	return left.Put
}

// ready is told that the application is loaded. What the file's reader warned
// of goes to the log only: the Emperor knows it.
func (p *process) ready(notes vassal.Problems) {
	for _, n := range slices.Concat(p.app.Warnings, notes) {
		if n.Severity != vassal.Note {
			p.log.Warn(n.Message, "file", n.File, "line", n.Line, "hint", n.Hint)
		}
	}
	p.serves.Store(true)
	if p.control == nil {
		p.core.Alone() // nobody else could say so
		return
	}
	p.loaded <- time.Now()
	if err := p.control.Send(vassal.Message{Type: vassal.Ready, Notes: notes}); err != nil {
		p.log.Warn("nobody was told that the core is ready", "err", err)
	}
}

// closed tells that no more connections are accepted.
func (p *process) closed() {
	if p.control == nil {
		return
	}
	if err := p.control.Send(vassal.Message{Type: vassal.Closed}); err != nil {
		p.log.Debug("nobody was told that the core accepts no more", "err", err)
	}
}

// rested tells that another generation's daemons and jobs may start.
func (p *process) rested(until time.Time) {
	if p.control == nil {
		return
	}
	m := vassal.Message{Type: vassal.Rested}
	if !until.IsZero() {
		m.Until = &until
	}
	if err := p.control.Send(m); err != nil {
		p.log.Debug("nobody was told that the core's daemons and jobs have ended", "err", err)
	}
}

// failed tells why the core ends.
func (p *process) failed(err error) {
	if p.control == nil {
		return
	}
	reason := vassal.AsProblems(err, "serve", vassal.CodeStartFailed).First()
	if err := p.control.Send(vassal.Message{Type: vassal.Failed, Reason: reason}); err != nil {
		p.log.Warn("nobody was told why the core ends", "err", err)
	}
}

func (p *process) printWorkers() {
	for _, w := range p.pool.Stats().Workers {
		p.log.Info(fmt.Sprintf("worker %d (pid %d): %d requests, busy: %t", w.ID, w.PID, w.Requests, w.Busy))
	}
}
