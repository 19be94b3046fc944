// Package daemon runs the programs that a vassal has beside its app, as
// uWSGI's attach-daemon does: by /bin/sh -c, in the vassal's sandbox, as its
// user and under its limits, started once no other generation's daemons run,
// and stopped when a new generation is ready or the vassal ends.
//
// A daemon that ends is started again, after a pause that grows when it ends
// early (package keeper). It is asked to end by its stop signal, which its
// whole process group gets, and is killed after grace. A changed file of its
// touch list, looked at each second, has it started anew, or sends it its
// reload signal.
//
// The pid file of a smart daemon is written when it starts and removed when it
// has ended; a number that an earlier one left in it is not believed. A smart
// daemon of the first kind goes into the background by itself: then it is
// watched by the number in its pid file, if that is one of the children that
// the core has been left with.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/serve/keeper"
	"liege/serve/worker"
	"liege/vassal"
)

// Times of daemons.
const (
	grace     = 4 * time.Second // between the stop signal and SIGKILL
	lookEvery = time.Second     // at touched files, and whether a background daemon lives
	forkTime  = 5 * time.Second // for a background daemon to write its pid file
)

// Starter starts programs and waits for them: worker.Pool.
type Starter interface {
	Start(*worker.Program) (worker.Process, error)
	Environ() []string
}

// Set is the daemons of one vassal.
type Set struct {
	all []*daemon
	log *slog.Logger
}

// daemon is one of them.
type daemon struct {
	d     *vassal.Daemon
	keep  *keeper.Keeper
	start Starter
	dir   string
	null  *os.File
	log   *slog.Logger

	ctx  context.Context // of Run, for the keeper's calls
	mu   sync.Mutex
	back int // the pid of one that went into the background; 0: none
}

// Stat is what stats say of a daemon.
type Stat struct {
	Command  string
	PID      int
	Respawns uint64
}

// New returns the daemons of app. None is started.
func New(app *vassal.App, start Starter, log *slog.Logger) *Set {
	s := &Set{log: log}
	for i := range app.Daemons {
		d := &daemon{d: &app.Daemons[i], start: start, dir: app.Dir, log: log.With("daemon", clip(app.Daemons[i].Command))}
		if d.d.Dir != "" {
			d.dir = d.d.Dir
		}
		d.keep = keeper.New(keeper.Spec{Name: "daemon", Program: d.program, Changed: d.changed, Ended: d.ended, Signal: syscall.Signal(d.d.Stop),
			Whole: true, Leave: d.d.Forks, Grace: grace, Pause: time.Second}, start, d.log)
		s.all = append(s.all, d)
	}
	return s
}

// clip shortens a command for messages.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// Run runs the daemons until ctx ends and all are gone. quit is called when
// one that controls the instance has ended.
func (s *Set) Run(ctx context.Context, quit func()) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		s.log.Error("daemons are not started", "err", err)
		return
	}
	defer null.Close()
	var all sync.WaitGroup
	for _, d := range s.all {
		d.ctx, d.null = ctx, null
		if len(d.d.Touch) > 0 {
			began := d.times() // a file that is touched from here on counts
			all.Go(func() { d.watch(ctx, began) })
		}
		all.Go(func() {
			err := d.keep.Run(ctx)
			d.removePidFile()
			switch {
			case err != nil:
				d.log.Error("daemon", "err", err)
			case d.d.Control && ctx.Err() == nil:
				d.log.Warn("the daemon that controls the instance has ended: so does the instance")
				quit()
			}
		})
	}
	all.Wait()
}

// Stats tells what is known of the daemons.
func (s *Set) Stats() (out []Stat) {
	for _, d := range s.all {
		k := d.keep.Stats()[0]
		st := Stat{Command: d.d.Command, PID: k.PID, Respawns: k.Respawns}
		d.mu.Lock()
		if d.back != 0 {
			st.PID = d.back
		}
		d.mu.Unlock()
		out = append(out, st)
	}
	return out
}

func (d *daemon) program(int) (*worker.Program, error) {
	if d.d.Forks { // what an earlier one left there would be taken for this one's
		d.removePidFile()
	}
	return &worker.Program{Path: "/bin/sh", Argv: []string{"/bin/sh", "-c", d.d.Command}, Env: d.start.Environ(), Dir: d.dir,
		Files: [3]*os.File{d.null, os.Stderr, os.Stderr}, Limits: d.d.Limits}, nil
}

// changed writes the pid file.
func (d *daemon) changed(_ int, up bool) {
	if !up || d.d.PidFile == "" || d.d.Forks {
		return
	}
	pid := d.keep.PID(0)
	if err := os.WriteFile(d.path(), []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		d.log.Warn("pid file not written", "err", err)
	}
}

func (d *daemon) path() string {
	if filepath.IsAbs(d.d.PidFile) {
		return d.d.PidFile
	}
	return filepath.Join(d.dir, d.d.PidFile)
}

func (d *daemon) removePidFile() {
	if d.d.PidFile == "" {
		return
	}
	if err := os.Remove(d.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("pid file not removed", "err", err)
	}
}

// ended says whether the daemon is started again. One that went into the
// background has not ended yet: it is watched until it does.
func (d *daemon) ended(int, string) bool {
	if d.d.Forks {
		if pid := d.background(); pid > 0 {
			d.stay(pid)
		}
	}
	return !d.d.Control
}

// background is the pid of the daemon in the background, when it is a child of
// this process: whoever goes there is left to the core.
func (d *daemon) background() int {
	for end := time.Now().Add(forkTime); ; {
		b, err := os.ReadFile(d.path())
		if err == nil && len(b) < 64 {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 1 && parent(pid) == os.Getpid() {
				return pid
			}
		}
		if !d.sleep(100*time.Millisecond) || time.Now().After(end) {
			return 0
		}
	}
}

func (d *daemon) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// stay waits for the end of the daemon in the background, and ends it when it
// is time.
func (d *daemon) stay(pid int) {
	d.mu.Lock()
	d.back = pid
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.back = 0
		d.mu.Unlock()
	}()
	d.log.Info("the daemon runs in the background", "pid", pid)
	for parent(pid) == os.Getpid() {
		if d.sleep(lookEvery) {
			continue
		}
		d.signalBack(pid, d.stopSignal())
		for end := time.Now().Add(grace); parent(pid) == os.Getpid() && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		if parent(pid) == os.Getpid() {
			d.signalBack(pid, unix.SIGKILL)
		}
		return
	}
}

func (d *daemon) stopSignal() syscall.Signal {
	if d.d.Stop == 0 {
		return unix.SIGTERM
	}
	return syscall.Signal(d.d.Stop)
}

func (d *daemon) signalBack(pid int, s syscall.Signal) { _ = unix.Kill(pid, s) } // ESRCH: it has ended

// parent is the pid of the parent of process pid; 0: there is none, or the
// process has ended.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 2 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return n
}

// watch looks at the touched files, which had the times last.
func (d *daemon) watch(ctx context.Context, last string) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := d.times()
		if now == last {
			continue
		}
		last = now
		d.log.Info("a file was touched: the daemon is reloaded")
		d.reload()
	}
}

// times are those of the touched files.
func (d *daemon) times() string {
	var b strings.Builder
	for _, p := range d.d.Touch {
		if !filepath.IsAbs(p) {
			p = filepath.Join(d.dir, p)
		}
		if st, err := os.Stat(p); err == nil {
			fmt.Fprintf(&b, "%d", st.ModTime().UnixNano())
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func (d *daemon) reload() {
	d.mu.Lock()
	back := d.back
	d.mu.Unlock()
	s := syscall.Signal(d.d.Reload)
	switch {
	case back != 0 && s != 0:
		d.signalBack(back, s)
	case back != 0:
		d.signalBack(back, d.stopSignal())
	case s != 0:
		d.keep.Signal(0, s)
	default:
		d.keep.Restart(0)
	}
}
