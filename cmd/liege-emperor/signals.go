package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/inifile"
)

// patience is how soon a second signal is taken for the first one again.
const patience = 3 * time.Second

// saveTime is how long the vassals may take to save what they count before the
// Emperor hands over.
const saveTime = 2 * time.Second

// signals obeys signals (CONTRACT 17) until ctx is done; stop begins the end,
// and leave is the end in which the vassals go on.
func (r *realm) signals(ctx context.Context, stop, leave func()) {
	signal.Ignore(unix.SIGTSTP, unix.SIGPIPE)
	got := make(chan os.Signal, 16)
	signal.Notify(got, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	defer signal.Stop(got)
	rescans := rescans{reload: make(chan struct{}, 1), look: make(chan struct{}, 1)}
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { r.rescan(ctx, rescans) })
	var first time.Time
	for {
		var s os.Signal
		select {
		case <-ctx.Done():
			return
		case s = <-got:
		}
		switch s {
		case unix.SIGHUP:
			r.reread()
			wish(rescans.reload)
		case unix.SIGUSR1:
			for _, line := range r.emperor.Lines() {
				r.log.Info(line)
			}
		case unix.SIGUSR2:
			if !first.IsZero() || r.flags.one != "" {
				continue // it ends, and they with it; or nobody would follow
			}
			if !r.mayHandOver() {
				continue
			}
			r.log.Info("hands over: the vassals go on serving, and the next Emperor takes them over")
			sctx, cancel := context.WithTimeout(ctx, saveTime)
			r.emperor.Save(sctx)
			cancel()
			leave()
			return
		case unix.SIGWINCH:
			wish(rescans.look)
		default:
			switch {
			case first.IsZero():
				first = time.Now()
				r.log.Info("stops when every vassal has drained; the same again in 3 s: at once", "signal", s.String())
				tell(daemon.SdNotifyStopping)
				stop()
			case time.Since(first) >= patience:
				r.emperor.Hurry()
			}
		}
	}
}

// rescanTime is how long a look at the vassal files may take before systemd is told
// that the reload is over.
const rescanTime = time.Minute

// rescans are wishes that the vassal files be read anew, each of capacity 1: after
// emperor.ini was, of which systemd waits for the end; and without that.
type rescans struct{ reload, look chan struct{} }

func wish(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is wished already
	}
}

// rescan does what is wished, beside the signals: it takes for ever where the file
// system of the vassal files hangs.
func (r *realm) rescan(ctx context.Context, wishes rescans) {
	for {
		reload := false
		select {
		case <-ctx.Done():
			return
		case <-wishes.look:
		case <-wishes.reload:
			reload = true
		}
		limited, cancel := context.WithTimeout(ctx, rescanTime)
		if err := r.emperor.Refresh(limited); err != nil && ctx.Err() == nil {
			r.log.Warn("rescan", "err", err)
		}
		cancel()
		if reload {
			tell(daemon.SdNotifyReady)
		}
	}
}

// reread reads emperor.ini anew. What is wrong in it leaves the old settings in force.
func (r *realm) reread() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	}
	cfg, ps, err := load(r.flags)
	if err != nil {
		r.log.Error("emperor.ini is not used: the settings stay as they were", "errors", len(problems(err)), "hint", "liege check "+cmp.Or(r.flags.config, defaultConfig))
		for _, p := range problems(err) {
			r.log.Error(p.Error(), "hint", p.Hint)
		}
	} else {
		for _, p := range ps {
			if p.Severity == vassal.Warning {
				r.log.Warn(p.Error(), "hint", p.Hint)
			}
		}
		if keys := fixed(r.cfg, cfg); len(keys) > 0 {
			hint := "liege handover"
			if moved(r.cfg, cfg) {
				hint = "systemctl restart liege: vassals cannot be taken over from other places"
			}
			r.log.Warn("these keys of emperor.ini have changed and are used only by the next Emperor", "keys", keys, "hint", hint)
		}
		r.expander.Set(r.machine.settings(cfg))
	}
}

// mayHandOver reports whether another Emperor could take this one's place now:
// it reads emperor.ini anew, and looks for the vassals where that says.
func (r *realm) mayHandOver() bool {
	cfg, _, err := load(r.flags)
	switch {
	case err != nil:
		r.log.Error("does not hand over: the next Emperor would not start", "errors", len(problems(err)), "hint", "liege check "+cmp.Or(r.flags.config, defaultConfig))
	case moved(r.cfg, cfg):
		r.log.Error("does not hand over: the next Emperor would not find the vassals", "keys", fixed(r.cfg, cfg), "hint", "systemctl restart liege, which drains every vassal")
	default:
		return true
	}
	return false
}

// moved reports whether an Emperor with the settings now would not find what was's
// left running.
func moved(was, now inifile.EmperorConfig) bool {
	return was.RunDir != now.RunDir || was.StateDir != now.StateDir || was.Cgroup != now.Cgroup
}

// fixed names the keys of [emperor] that differ and that only a new Emperor
// heeds.
func fixed(was, now inifile.EmperorConfig) []string {
	var keys []string
	for _, k := range []struct {
		key     string
		differs bool
	}{
		{"vassals", !slices.Equal(was.Vassals, now.Vassals)},
		{"run-dir", was.RunDir != now.RunDir},
		{"log-dir", was.LogDir != now.LogDir},
		{"state-dir", was.StateDir != now.StateDir},
		{"cgroup", was.Cgroup != now.Cgroup},
		{"log-format", was.LogFormat != now.LogFormat},
		{"control-group", was.ControlGroup != now.ControlGroup},
		{"start-concurrency", was.Concurrency != now.Concurrency},
		{"touch", was.Touch != now.Touch},
		{"rescan", was.Rescan != now.Rescan},
		{"tyrant", was.Tyrant != now.Tyrant},
	} {
		if k.differs {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// notify tells systemd how it goes: READY after the first scan, STATUS, and
// the watchdog for as long as the set of vassals answers.
func (r *realm) notify(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-r.emperor.Scanned():
	}
	tell(daemon.SdNotifyReady)
	every := 5 * time.Second
	if d, err := daemon.SdWatchdogEnabled(false); err == nil && d > 0 {
		every = min(every, d/2)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		if status := "STATUS=" + r.emperor.Totals().String(); status != said {
			tell(status)
			said = status
		}
		if r.answers(ctx, every) {
			tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answers asks the goroutine that owns the set, and only it, for a sign of
// life.
func (r *realm) answers(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.emperor.Alive(ctx) == nil
}

// tell is sd_notify. Without systemd, or with one that doesn't listen, there
// is nobody to miss it.
func tell(state string) { _, _ = daemon.SdNotify(false, state) }
