package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/worker"
	"liege/vassal"
)

func TestMain(m *testing.M) {
	// The goroutine that hands out signals stays for ever once it has started.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	signal.Stop(signals)
	os.Exit(testenv.Main(m))
}

// run runs daemons; DIR in their commands is a directory. stop ends them.
func run(t *testing.T, ds ...vassal.Daemon) (s *Set, dir string, quit *atomic.Bool, stop func()) {
	t.Helper()
	dir = t.TempDir()
	for i := range ds {
		for _, p := range []*string{&ds[i].Command, &ds[i].PidFile} {
			*p = strings.ReplaceAll(*p, "DIR", dir)
		}
	}
	app := &vassal.App{Name: "test", Dir: dir, Daemons: ds, Env: []string{"PATH=/usr/bin:/bin", "MINE=yes"}}
	pool, err := worker.New(app, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pool.Adopt = true // as the core: whoever goes into the background becomes its child
	ctx, cancel := context.WithCancel(context.Background())
	pctx, pstop := context.WithCancel(context.Background())
	pdone, done := make(chan error, 1), make(chan bool)
	go func() { pdone <- pool.Run(pctx) }()
	s = New(app, pool, slog.New(slog.DiscardHandler))
	quit = &atomic.Bool{}
	go func() { s.Run(ctx, func() { quit.Store(true) }); close(done) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		pstop()
		if err := <-pdone; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, dir, quit, stop
}

func read(p string) string {
	b, _ := os.ReadFile(p)
	return string(b)
}

// until waits for ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what, "has not happened")
		}
	}
}

func alive(pid int) bool { return parent(pid) != 0 }

// TestDaemon: it runs by a shell with the app's environment, in the app's
// directory, comes again when it ends, and is stopped by its own signal, with
// its group; its pid file goes with it.
func TestDaemon(t *testing.T) {
	testenv.Leaks(t)
	s, dir, quit, stop := run(t, vassal.Daemon{Command: `echo $MINE >>n; trap "echo int >end; exit" INT; echo $$ >me; sleep 1000 & wait`, PidFile: "d.pid", Stop: int(syscall.SIGINT)})
	until(t, "the pid file", func() bool { return read(dir+"/d.pid") != "" && read(dir+"/me") != "" })
	pid, _ := strconv.Atoi(strings.TrimSpace(read(dir + "/d.pid")))
	if me := strings.TrimSpace(read(dir + "/me")); me != strconv.Itoa(pid) || s.Stats()[0].PID != pid {
		t.Errorf("pid %d in the file, %s by itself, %d in stats", pid, me, s.Stats()[0].PID)
	}
	syscall.Kill(-pid, syscall.SIGKILL)
	until(t, "a second start", func() bool { return read(dir+"/n") == "yes\nyes\n" && s.Stats()[0].Respawns == 1 })
	until(t, "its trap", func() bool { return strings.TrimSpace(read(dir+"/me")) == strconv.Itoa(s.Stats()[0].PID) })
	stop()
	if read(dir+"/end") != "int\n" || read(dir+"/d.pid") != "" || quit.Load() {
		t.Errorf("end %q, pid file %q, quit %t", read(dir+"/end"), read(dir+"/d.pid"), quit.Load())
	}
}

// TestControl: the end of one that controls the instance is told, and it does
// not come again.
func TestControl(t *testing.T) {
	testenv.Leaks(t)
	_, dir, quit, _ := run(t, vassal.Daemon{Command: "echo x >>n", Control: true})
	until(t, "the end", quit.Load)
	if read(dir+"/n") != "x\n" {
		t.Errorf("it ran %q", read(dir+"/n"))
	}
}

// TestTouch: a touched file reloads, by a new start or by a signal.
func TestTouch(t *testing.T) {
	testenv.Leaks(t)
	_, dir, _, _ := run(t, vassal.Daemon{Command: "echo x >>n; exec sleep 1000", Touch: []string{"flag"}},
		vassal.Daemon{Command: `trap "echo hup >>m" HUP; echo up >>m; while :; do sleep 1000 & wait; done`, Touch: []string{"flag"}, Reload: int(syscall.SIGHUP)})
	until(t, "both", func() bool { return read(dir+"/n") == "x\n" && read(dir+"/m") == "up\n" })
	if err := os.WriteFile(dir+"/flag", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the reload", func() bool { return read(dir+"/n") == "x\nx\n" && strings.HasPrefix(read(dir+"/m"), "up\nhup\n") })
}

// TestBackground: a daemon that forks is watched by its pid file, if that
// names a child; it is stopped, and started again when it ends. A number that
// is another's is not believed.
func TestBackground(t *testing.T) {
	testenv.Leaks(t)
	s, dir, _, stop := run(t, vassal.Daemon{Command: `echo x >>n; setsid sh -c 'trap "echo term >end; exit" TERM; echo $$ >d.pid; sleep 1000 & wait' &`, PidFile: "DIR/d.pid", Forks: true})
	pid := func() int {
		n, _ := strconv.Atoi(strings.TrimSpace(read(filepath.Join(dir, "d.pid"))))
		return n
	}
	until(t, "the daemon", func() bool { return pid() > 0 && s.Stats()[0].PID == pid() })
	first := pid()
	if read(dir+"/n") != "x\n" {
		t.Errorf("started %q", read(dir+"/n"))
	}
	syscall.Kill(first, syscall.SIGKILL)
	until(t, "a second one", func() bool { return pid() > 0 && pid() != first && s.Stats()[0].PID == pid() })
	second := pid()
	stop()
	if alive(second) || read(dir+"/end") != "term\n" {
		t.Errorf("alive %t, end %q", alive(second), read(dir+"/end"))
	}

	s, dir, _, _ = run(t, vassal.Daemon{Command: fmt.Sprintf("echo %d >d.pid; echo x >>n", os.Getppid()), PidFile: "DIR/d.pid", Forks: true})
	until(t, "the start", func() bool { return read(dir+"/n") != "" })
	time.Sleep(300 * time.Millisecond)
	if got := s.Stats()[0].PID; got == os.Getppid() {
		t.Error("the number of another process is believed")
	}
}
