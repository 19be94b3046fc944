package api

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"liege/serve/worker"
	"liege/vassal"
)

// lookEvery is how often files are looked at.
const lookEvery = time.Second

// state is what a path was when it was looked at.
type state struct {
	there    bool
	mtime    int64
	size     int64
	dev, ino uint64
}

// look looks at a path, as the vassal's user: a file that cannot be seen is
// one that is not there.
func look(path string) state {
	st, err := os.Stat(path)
	if err != nil {
		return state{}
	}
	s := state{there: true, mtime: st.ModTime().UnixNano(), size: st.Size()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = uint64(sys.Dev), sys.Ino //nolint:unconvert // not 64 bits everywhere
	}
	return s
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/", dir, path)
}

// runJobs raises what time and files raise, until ctx ends; then it waits for
// the commands that run.
func (h *Host) runJobs(ctx context.Context) {
	var commands sync.WaitGroup
	defer commands.Wait()
	touched := make([]state, len(h.jobs.Touches))
	for i := range h.jobs.Touches {
		touched[i] = look(absolute(h.app.Dir, h.jobs.Touches[i].Path))
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	t := time.NewTimer(0)
	defer t.Stop()
	idle := false
	minute := time.Now().Truncate(time.Minute)
	if h.since.Before(minute) && minute.Sub(h.since) <= maxMissed {
		minute = h.since.Truncate(time.Minute)
	}
	defer func() {
		if idle {
			minute = time.Now().Truncate(time.Minute)
		}
		h.until.Store(minute.Unix())
	}()
	for {
		if was := idle; was != h.idle() {
			if idle = !was; idle {
				ticker.Stop()
			} else { // of the minutes before there was nothing to do
				minute = time.Now().Truncate(time.Minute)
				ticker.Reset(lookEvery)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-h.signals.wake:
		case <-t.C:
		case now := <-ticker.C:
			minute = h.minuteDue(ctx, minute, now, &commands)
			h.filesDue(ctx, touched, &commands)
		}
		t.Reset(time.Until(h.timersDue(time.Now())))
	}
}

// idle reports whether there is no file to be looked at and no cron. The application
// may come with some at any time.
func (h *Host) idle() bool {
	s := &h.signals
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(h.jobs.Crons)+len(h.jobs.Touches)+len(s.crons)+len(s.files) == 0
}

// timersDue raises what is due and says when to look again.
func (h *Host) timersDue(now time.Time) time.Time {
	next := now.Add(time.Hour)
	var due []int
	s := &h.signals
	s.mu.Lock()
	for i := 0; i < len(s.timers); {
		t := &s.timers[i]
		if t.next.IsZero() {
			t.next = now.Add(t.every)
		}
		over := false
		if !t.next.After(now) {
			due = append(due, t.signal)
			if t.next = t.next.Add(t.every); !t.next.After(now) {
				t.next = now.Add(t.every) // what was missed is not made up for
			}
			if t.times > 0 {
				t.times--
				over = t.times == 0
			}
		}
		if over {
			s.timers = append(s.timers[:i], s.timers[i+1:]...)
			continue
		}
		if t.next.Before(next) {
			next = t.next
		}
		i++
	}
	s.mu.Unlock()
	for _, n := range due {
		h.raised(n, "a timer")
	}
	return next
}

// maxMissed is how far back crons are looked for that nobody could raise,
// because one generation handed over to another, or the machine was too busy.
const maxMissed = 10 * time.Minute

// due reports whether k is due in one of the minutes after from, up to to.
func due(k *vassal.Cron, from, to time.Time) bool {
	for m := from.Add(time.Minute); !m.After(to); m = m.Add(time.Minute) {
		if k.Due(m) {
			return true
		}
	}
	return false
}

// minuteDue raises the crons of the minutes after minute, up to now, and
// returns the last one that is done with. A clock that was set back a little is
// waited for, so that no cron is raised twice; from further back it goes on.
func (h *Host) minuteDue(ctx context.Context, minute, now time.Time, commands *sync.WaitGroup) time.Time {
	m := now.Truncate(time.Minute)
	switch {
	case m.After(minute):
		h.cronsDue(ctx, minute, m, commands)
	case minute.Sub(m) > maxMissed:
		h.log.Warn("crons: the clock was set back; they go on from its time", "from", minute, "to", m)
	default:
		return minute
	}
	return m
}

// cronsDue raises each cron of the minutes after from, up to m, once.
func (h *Host) cronsDue(ctx context.Context, from, m time.Time, commands *sync.WaitGroup) {
	if m.Sub(from) > maxMissed {
		from = m.Add(-time.Minute) // the clock was set
	}
	s := &h.signals
	s.mu.Lock()
	var raise []int
	for _, k := range s.crons {
		if due(&vassal.Cron{Minute: k.minute, Hour: k.hour, Day: k.day, Month: k.month, Week: k.week}, from, m) {
			raise = append(raise, k.signal)
		}
	}
	s.mu.Unlock()
	for _, n := range raise {
		h.raised(n, "a cron")
	}
	for i := range h.jobs.Crons {
		if k := &h.jobs.Crons[i]; due(k, from, m) {
			h.command(ctx, k, &h.crons[i], commands)
		}
	}
}

// filesDue raises what changed files raise.
func (h *Host) filesDue(ctx context.Context, touched []state, commands *sync.WaitGroup) {
	s := &h.signals
	s.mu.Lock()
	var due []int
	for i := range s.files {
		f := &s.files[i]
		if now := look(f.path); now != f.was {
			f.was = now
			due = append(due, f.signal)
		}
	}
	s.mu.Unlock()
	for _, n := range due {
		h.raised(n, "a file monitor")
	}
	for i := range h.jobs.Touches {
		t := &h.jobs.Touches[i]
		now := look(absolute(h.app.Dir, t.Path))
		if now == touched[i] {
			continue
		}
		touched[i] = now
		switch {
		case t.Signal != nil:
			h.raised(*t.Signal, t.Path)
		case t.Exec != "":
			h.command(ctx, &vassal.Cron{Command: t.Exec, At: t.At}, &cronState{}, commands)
		case t.Mules:
			h.log.Info("the mules are replaced", "file", t.Path)
			h.pool.Renew(worker.Mule)
		case t.Spoolers:
			h.log.Info("the spoolers are replaced", "file", t.Path)
			h.pool.Renew(worker.Spooler)
		}
	}
}

// cronState is what runs of a cron line.
type cronState struct {
	mu      sync.Mutex
	running int
	pid     int
	started time.Time
}

// commandEnd is how long a command has to end once it was asked to.
const commandEnd = 5 * time.Second

// peace is how long a command may go on before it is asked to end, when this
// generation does: not at all if the vassal stops. If another generation takes
// over, for as long as the drain lasts but for what comes after.
func (h *Host) peace() time.Duration {
	if !h.relieved.Load() {
		return 0
	}
	return max(0, h.app.Drain-2*commandEnd)
}

// command starts a line's command, unless it is unique and still runs.
func (h *Host) command(ctx context.Context, k *vassal.Cron, st *cronState, commands *sync.WaitGroup) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if k.Unique && st.running > 0 || st.running >= maxTimers {
		h.log.Warn("cron: the command still runs", "file", k.At.File, "line", k.At.Line, "pid", st.pid)
		return
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		h.log.Error("cron", "err", err)
		return
	}
	defer null.Close()
	p, err := h.pool.Start(&worker.Program{Path: "/bin/sh", Argv: []string{"sh", "-c", k.Command}, Env: h.pool.Environ(),
		Dir: h.app.Dir, Files: [3]*os.File{null, h.Stdout, h.Stdout}, Limits: h.jobs.Limits})
	if err != nil {
		h.log.Error("cron: the command cannot be started", "file", k.At.File, "line", k.At.Line, "err", err)
		return
	}
	st.running++
	st.pid, st.started = p.PID, time.Now()
	commands.Go(func() {
		h.attend(ctx, k, &p)
		st.mu.Lock()
		defer st.mu.Unlock()
		st.running--
		if st.pid == p.PID {
			st.pid = 0
		}
	})
}

// attend waits for a command's end.
func (h *Host) attend(ctx context.Context, k *vassal.Cron, p *worker.Process) {
	limit := k.Harakiri
	if limit <= 0 {
		limit = h.jobs.CronHarakiri
	}
	var late, ends <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	var ws syscall.WaitStatus
	for end := ctx.Done(); ; {
		select {
		case ws = <-p.Status:
		case <-late:
			h.log.Error("cron: harakiri: the command ran for too long", "file", k.At.File, "line", k.At.Line, "pid", p.PID, "limit", limit)
			p.Kill()
			<-p.Status
			return
		case <-end:
			t := time.NewTimer(h.peace())
			defer t.Stop()
			end, ends = nil, t.C
			continue
		case <-ends:
			h.interrupt(k, p)
			return
		}
		break
	}
	if ws.ExitStatus() != 0 {
		h.log.Warn("cron: the command failed", "file", k.At.File, "line", k.At.Line, "pid", p.PID, "status", ws.ExitStatus())
	}
}

// interrupt asks a command to end, and sees to it.
func (h *Host) interrupt(k *vassal.Cron, p *worker.Process) {
	h.log.Warn("cron: the command is asked to end", "file", k.At.File, "line", k.At.Line, "pid", p.PID)
	_ = syscall.Kill(-p.PID, syscall.SIGTERM) // not reaped before Status was received
	end := time.NewTimer(commandEnd)
	defer end.Stop()
	select {
	case <-p.Status:
	case <-end.C:
		p.Kill() // the pool's end reaps it
	}
}
