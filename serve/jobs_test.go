package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/api"
	"liege/serve/worker"
	"liege/serve/worker/lang"
	"liege/serve/worker/python"
	"liege/vassal"
)

// jobSite is a vassal whose app is testdata/jobs.py.
type jobSite struct {
	t     *testing.T
	dir   string
	core  *Core
	addrs []string
	log   string // file
	stop  func() error
}

const jobLines = `http-socket = 127.0.0.1:1
stats = 127.0.0.1:2
wsgi-file = jobs.py
processes = 2
mules = 2
farm = f:1,2
spooler = spool
locks = 2
cache2 = name=c,items=10
metric = name=mine,type=gauge
`

func newJobSite(t *testing.T, lines string) *jobSite {
	t.Helper()
	return bareSite(t, jobLines+lines)
}

// bareSite is a site of these lines alone.
func bareSite(t *testing.T, lines string) *jobSite {
	t.Helper()
	testenv.Need(t, testenv.Python3)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCHLD) // its goroutine stays: not a leak of the core's
	signal.Stop(c)
	testenv.Leaks(t)
	s := &jobSite{t: t, dir: t.TempDir()}
	script, err := os.ReadFile("testdata/jobs.py")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "jobs.py"), script, 0o644); err != nil {
		t.Fatal(err)
	}
	app, _ := decode(t, lines)
	app.Dir, app.Drain = s.dir, 5*time.Second
	app.Env = append(app.Env, "ROOT="+s.dir, "PYTHONDONTWRITEBYTECODE=1")
	s.log = filepath.Join(t.TempDir(), "log")
	out, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	log := slog.New(slog.NewTextHandler(out, nil))
	pool, err := worker.NewMounted(app, func(a *vassal.App) (lang.Runtime, error) { return python.New(a), nil }, log)
	if err != nil {
		t.Fatal(err)
	}
	pool.Stdout, pool.Stderr = out, out
	if s.core, err = New(app, pool, out, log); err != nil {
		t.Fatal(err)
	}
	s.core.api.Stdout = out
	s.start()
	return s
}

// start runs the core and waits until it is ready.
func (s *jobSite) start() {
	var ls []net.Listener
	for range s.core.app.Listen {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		ls, s.addrs = append(ls, l), append(s.addrs, l.Addr().String())
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.core.Run(ctx, ls, func(vassal.Problems) { close(ready) }) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	s.t.Cleanup(func() {
		s.stop()
		if b, _ := os.ReadFile(s.log); s.t.Failed() {
			s.t.Logf("%s\nnotes:\n%s", b, s.notes())
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		b, _ := os.ReadFile(s.log)
		s.t.Fatalf("%v\n%s", err, b)
	case <-time.After(20 * time.Second):
		s.t.Fatal("not ready")
	}
}

// eval evaluates an expression in a worker.
func (s *jobSite) eval(expr string) string {
	s.t.Helper()
	got := ask(s.t, s.addrs[0], "GET /?"+strings.ReplaceAll(expr, " ", "%20")+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	return body
}

func (s *jobSite) notes() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "notes"))
	return string(b)
}

// await waits until the notes have a line.
func (s *jobSite) await(line string) {
	s.t.Helper()
	s.until(line, func() bool { return slices.Contains(strings.Split(s.notes(), "\n"), line) })
}

func (s *jobSite) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not in time: %s", what)
		}
	}
}

type jobStats struct {
	Locks    []map[string]uint64
	Mules    []api.MuleStats
	Spoolers []api.SpoolerStats
}

func (s *jobSite) stats() (st jobStats) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(ask(s.t, s.addrs[1], "")), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// TestServices: what a worker asks of the core, with uWSGI's types.
func TestServices(t *testing.T) {
	s := newJobSite(t, "")
	for _, c := range [][2]string{
		{`uwsgi.cache_set('k','v')`, "True"}, {`uwsgi.cache_set('k','v')`, "None"}, {`uwsgi.cache_get('k')`, "b'v'"},
		{`uwsgi.cache_get('none')`, "None"}, {`uwsgi.cache_get('k','nocache')`, "None"}, {`uwsgi.cache_exists('k')`, "True"},
		{`uwsgi.cache_update('k',b'w'*60000,9,'c')`, "True"}, {`len(uwsgi.cache_get('k'))`, "60000"}, {`uwsgi.cache_del('k')`, "True"}, {`uwsgi.cache_del('k')`, "None"},
		{`uwsgi.cache_inc('n',5)`, "True"}, {`uwsgi.cache_mul('n',3)`, "True"}, {`uwsgi.cache_dec('n',1)`, "True"}, {`uwsgi.cache_div('n',2)`, "True"},
		{`uwsgi.cache_num('n')`, "7"}, {`uwsgi.cache_keys()`, "[b'n']"}, {`uwsgi.cache_clear()`, "True"}, {`uwsgi.cache_keys('x')`, "raise ValueError: no local uWSGI cache available"},
		{`[uwsgi.lock(),uwsgi.is_locked(),uwsgi.unlock(),uwsgi.is_locked()]`, "[None, True, None, False]"}, {`locked()`, "True"},
		{`uwsgi.lock(9)`, "raise ValueError: invalid lock number: there are 3; hint: locks = N"},
		{`uwsgi.metric_set('mine',40)`, "True"}, {`uwsgi.metric_inc('mine',2)`, "True"}, {`uwsgi.metric_get('mine')`, "42"}, {`uwsgi.metric_set('nope',1)`, "None"}, {`uwsgi.metric_get('nope')`, "0"},
		{`uwsgi.signal_registered(10)`, "True"}, {`uwsgi.signal_registered(99)`, "None"}, {`uwsgi.signal(99)`, "None"},
		{`uwsgi.rpc(b'',b'join',b'1',b'2')`, "b'1-2'"}, {`uwsgi.call('join','1')`, "b'1'"}, {`uwsgi.rpc_list()`, "(b'join',)"}, {`uwsgi.call('no')`, "None"},
		{`len(uwsgi.workers())`, "2"}, {`sorted(uwsgi.workers()[0])[:3]`, "['apps', 'avg_rt', 'delta_requests']"}, {`uwsgi.workers()[0]['status'] in (b'idle',b'busy')`, "True"},
		{`uwsgi.mule_msg(b'x',9)`, "False"}, {`uwsgi.mule_get_msg()`, "raise ValueError: you can receive mule messages only in a mule !!!"},
		{`uwsgi.set_logvar('a','b')`, "None"}, {`[uwsgi.set_logvar('a','b'),uwsgi.get_logvar('a'),uwsgi.get_logvar('b')]`, "[None, b'b', None]"},
		{`uwsgi.spool({'a':'b'})`, "raise ValueError: spooler callable dictionary must contains only bytes"},
		{`[type(v).__name__ for v in uwsgi.mem()]`, "['int', 'int']"}, {`uwsgi.cl()`, "0"}, {`uwsgi.total_requests() > 0`, "True"}, {`uwsgi.connection_fd() > 2`, "True"},
		{`uwsgi.websocket_nothing`, "raise AttributeError: uwsgi.websocket_nothing is not provided by Liege"},
		{`uwsgi.reload()`, "None"},
	} {
		if got := s.eval(c[0]); got != c[1] {
			t.Errorf("%s: got %s, want %s", c[0], got, c[1])
		}
	}
	if st := s.stats(); len(st.Locks) != 3 || st.Locks[0]["user 0"] != 0 || len(st.Mules) != 2 || st.Mules[0].PID != 0 {
		t.Errorf("stats: %+v", st)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(s.notes(), "exit of worker"); n != 2 {
		t.Errorf("%d workers called atexit:\n%s", n, s.notes())
	}
}

// TestCommandsEnd: a cron's command that runs when another generation takes over
// ends in peace, and the daemons are there for it until then; when the vassal
// stops it is asked to end at once.
func TestCommandsEnd(t *testing.T) {
	script := "trap 'echo asked >> notes' TERM\necho begun >> notes\nuntil [ -e go ] || grep -q asked notes; do sleep 0.05; done\n" +
		"kill -0 $(cat daemon) && echo daemon >> notes\necho done >> notes\n"
	for _, relieved := range []bool{true, false} {
		t.Run(fmt.Sprint("relieved=", relieved), func(t *testing.T) {
			s := newJobSite(t, "touch-exec = flag exec sh ./command\nattach-daemon = echo $$ > daemon; exec sleep 1000\n")
			s.core.app.Drain = 60 * time.Second
			if err := os.WriteFile(filepath.Join(s.dir, "command"), []byte(script), 0o644); err != nil {
				t.Fatal(err)
			}
			s.core.Alone()
			s.until("the daemon", func() bool { b, _ := os.ReadFile(filepath.Join(s.dir, "daemon")); return len(b) > 1 })
			s.until("the command", func() bool { // whenever the files are looked at first
				if err := os.WriteFile(filepath.Join(s.dir, "flag"), []byte(s.notes()+time.Now().String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return strings.Contains(s.notes(), "begun")
			})
			if relieved {
				s.core.Relieved()
			}
			ended := make(chan error, 1)
			go func() { ended <- s.stop() }()
			if relieved {
				s.until("it accepts no more", func() bool {
					c, err := net.Dial("tcp", s.addrs[0])
					if err == nil {
						c.Close()
					}
					return err != nil
				})
				time.Sleep(200 * time.Millisecond) // in which nothing may happen
				if err := os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			got := s.notes()
			if !strings.Contains(got, "done") || strings.Contains(got, "asked") == relieved || relieved && !strings.Contains(got, "daemon") {
				t.Errorf("the notes are\n%s", got)
			}
		})
	}
}

// TestSignals: each signal reaches those that its target names, and nothing is
// raised by time or files before the generation is alone.
func TestSignals(t *testing.T) {
	s := newJobSite(t, "timer = 10 1\ntouch-signal = flag 13\ntouch-exec = flag echo ran >> notes\n")
	if got := s.notes(); strings.Contains(got, "mule") || strings.Contains(got, "tick") || strings.Contains(got, "signal") {
		t.Errorf("before it was alone:\n%s", got)
	}
	s.core.Alone()
	for _, line := range []string{"forked mule1", "forked mule2", "forked spooler", "tick in mule1"} {
		s.await(line)
	}
	s.until("the file's timer", func() bool { return strings.Contains(s.notes(), "signal 10 in worker") })
	for n, lines := range map[int][]string{
		11: {"signal 11 in worker1", "signal 11 in worker2"}, 12: {"signal 12 in mule1"},
		14: {"signal 14 in spooler"}, 15: {"signal 15 in worker2"},
	} {
		if got := s.eval(fmt.Sprintf("uwsgi.signal(%d)", n)); got != "None" {
			t.Errorf("signal %d: %s", n, got)
		}
		for _, line := range lines {
			s.await(line)
		}
	}
	s.eval("uwsgi.signal(16)")
	s.until("a mule of the farm", func() bool { return strings.Contains(s.notes(), "signal 16 in mule") })
	for _, f := range []string{"watched", "flag"} {
		if err := os.WriteFile(filepath.Join(s.dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"changed in mule2", "signal 13 in mule1", "signal 13 in mule2", "ran"} {
		s.await(line)
	}
	if got := s.notes(); strings.Contains(got, "signal 15 in worker1") || strings.Contains(got, "signal 12 in mule2") {
		t.Errorf("somebody else was told:\n%s", got)
	}
}

// TestMules: a message is worked on once, also when it waits for a mule that
// was killed; one that takes too long ends the mule.
func TestMules(t *testing.T) {
	s := newJobSite(t, "mule-harakiri = 2\n")
	s.core.Alone()
	s.eval("work('a')")
	s.until("the message", func() bool { return strings.Contains(s.notes(), "\nwork a in mule") })
	st := s.stats()
	if len(st.Mules) != 2 || st.Mules[0].PID == 0 || st.Mules[0].ID != 1 {
		t.Fatalf("%+v", st.Mules)
	}
	syscall.Kill(st.Mules[0].PID, syscall.SIGKILL)
	s.until("another mule", func() bool { m := s.stats().Mules[0]; return m.PID != 0 && m.PID != st.Mules[0].PID && m.Respawns == 1 })
	if got := s.eval(`uwsgi.mule_msg(__import__('pickle').dumps({'service':'uwsgi_mulefunc','func':'work','args':('b',),'kwargs':{}}),1)`); got != "True" {
		t.Error(got)
	}
	s.await("work b in mule1")
	s.eval("work('c',60)")
	s.until("mule-harakiri", func() bool { st := s.stats().Mules; return st[0].Respawns+st[1].Respawns == 2 })
	if strings.Contains(s.notes(), "\nwork c") {
		t.Error("it was not killed")
	}
	s.eval("work('d')")
	s.until("work after it", func() bool { return strings.Contains(s.notes(), "\nwork d in mule") })
}

// TestSpooler: a task is done once, one that asks for it again, and what a
// killed spooler was at is done by the next.
func TestSpooler(t *testing.T) {
	s := newJobSite(t, "spooler-processes = 2\nspooler-frequency = 1\n")
	if got := s.eval(`task.spool(name='early')`); !strings.Contains(got, "uwsgi_spoolfile_on_") {
		t.Fatal(got)
	}
	if got := s.eval("len(uwsgi.spooler_jobs())"); got != "1" {
		t.Errorf("%s tasks", got)
	}
	s.core.Alone()
	s.await("task early in spooler")
	s.eval(`twice.spool(name='x')`)
	s.await("retry x")
	s.await("done x")
	for i := range 20 {
		s.eval(fmt.Sprintf(`task.spool(name='n%d')`, i))
	}
	s.eval(`uwsgi.spool({b'ud_spool_func':b'task',b'name':b'later',b'at':b'9999999999'})`)
	for i := range 20 {
		s.await(fmt.Sprintf("task n%d in spooler", i))
	}
	s.eval(`task.spool(name='s',slow='1.5')`)
	s.until("a slow task", func() bool { return strings.Contains(s.notes(), "begins ") })
	_, rest, _ := strings.Cut(s.notes(), "begins ")
	var pid int
	fmt.Sscan(rest, &pid)
	syscall.Kill(pid, syscall.SIGKILL)
	s.await("task s in spooler")
	for i := range 20 {
		if n := strings.Count(s.notes(), fmt.Sprintf("task n%d in", i)); n != 1 {
			t.Errorf("task n%d was done %d times", i, n)
		}
	}
	s.until("nothing but the later task", func() bool { return s.eval("len(uwsgi.spooler_jobs())") == "1" })
	st := s.stats().Spoolers
	if len(st) != 2 || st[0].Tasks+st[1].Tasks == 0 || st[0].Dir != filepath.Join(s.dir, "spool") && st[0].Dir != "spool" {
		t.Errorf("%+v", st)
	}
	s.eval(`task.spool(name='end',slow='1')`)
	s.until("a task at the end", func() bool { return strings.Count(s.notes(), "begins ") == 3 })
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(s.notes(), "task end in spooler") {
		t.Error("the spooler did not finish its task when it was stopped")
	}
}

// TestLockHolderDies: a lock is given back with the process that holds it, and
// whoever waited has it.
func TestLockHolderDies(t *testing.T) {
	s := newJobSite(t, "")
	var all sync.WaitGroup
	all.Go(func() { s.eval("(uwsgi.lock(1),note('held'),time.sleep(0.3),os._exit(1))") })
	s.await("held")
	if got := s.eval("uwsgi.is_locked(1)"); got != "True" {
		t.Errorf("is_locked: %s", got)
	}
	if got := s.eval("(uwsgi.lock(1),uwsgi.unlock(1))"); got != "(None, None)" {
		t.Errorf("after its holder died: %s", got)
	}
	all.Wait()
	if got := s.eval("uwsgi.is_locked(1)"); got != "False" {
		t.Errorf("is_locked: %s", got)
	}
}

// TestUserHarakiri: a process may bound itself.
func TestUserHarakiri(t *testing.T) {
	s := newJobSite(t, "")
	got := ask(t, s.addrs[0], "GET /?"+"(uwsgi.set_user_harakiri(1),time.sleep(60))"+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("got %.40q", got)
	}
	if got := s.eval("uwsgi.set_user_harakiri(1),uwsgi.set_user_harakiri(0)"); got != "(None, None)" {
		t.Error(got)
	}
}

// TestWebsocket: a WSGI app speaks over a WebSocket by the functions of the
// module, and its worker serves on afterwards however that ended.
func TestWebsocket(t *testing.T) {
	s := newJobSite(t, "")
	const head = "GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	frame := func(op byte, text string) string {
		return string([]byte{0x80 | op, 0x80 | byte(len(text)), 0, 0, 0, 0}) + text
	}
	for _, end := range []string{frame(1, "quit"), frame(8, "\x03\xe8"), ""} {
		c, err := net.Dial("tcp", s.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, head)
		r := bufio.NewReader(c)
		a, err := http.ReadResponse(r, nil)
		if err != nil || a.StatusCode != 101 || a.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Fatalf("%v %v", a, err)
		}
		for _, x := range [][2]string{{"hello", "hello"}, {"poll", "b''"}} {
			fmt.Fprint(c, frame(1, x[0]))
			b := make([]byte, 2+len(x[1]))
			if _, err := io.ReadFull(r, b); err != nil || string(b) != string([]byte{0x81, byte(len(x[1]))})+x[1] {
				t.Fatalf("%q %v", b, err)
			}
		}
		fmt.Fprint(c, end)
		if end == "" {
			c.Close()
			continue
		}
		if b, _ := io.ReadAll(r); len(b) < 2 || b[0] != 0x88 {
			t.Errorf("the end is %q", b)
		}
		c.Close()
	}
	for range 4 {
		if got := s.eval("uwsgi.websocket_recv()"); got != "raise OSError: the request is no websocket: call websocket_handshake first" {
			t.Error(got)
		}
	}
	s.until("all workers idle", func() bool { return s.eval("[w['respawn_count'] for w in uwsgi.workers()]") == "[1, 1]" })
}

// TestRuleSignals: rules raise signals of the app, and say how long a request
// may take, whatever harakiri says for all.
func TestRuleSignals(t *testing.T) {
	s := newJobSite(t, "harakiri = 5\nroute-qs = ^purge signal:11\nroute-qs = ^nobody signal:99\nroute-qs = LONG harakiri:60\nroute-qs = EVER harakiri:0\nroute-qs = SHORT harakiri:1\n")
	s.eval("purge")
	s.await("signal 11 in worker1")
	s.await("signal 11 in worker2")
	s.eval("nobody")
	s.until("a line in the log", func() bool { b, _ := os.ReadFile(s.log); return strings.Contains(string(b), "signal 99") })
	for _, c := range [][2]string{{"time.sleep(7)or'LONG'", "'LONG'"}, {"time.sleep(7)or'EVER'", "'EVER'"}, {"time.sleep(60)or'SHORT'", "504 Gateway Timeout\n"}} {
		if got := s.eval(c[0]); got != c[1] {
			t.Errorf("%s: %q, want %q", c[0], got, c[1])
		}
	}
	// Without one for all.
	s = newJobSite(t, "route-qs = SHORT harakiri:1\n")
	if got := s.eval("time.sleep(60)or'SHORT'"); got != "504 Gateway Timeout\n" {
		t.Errorf("got %q", got)
	}
}

// TestMuleHooks: hook-as-mule has ended before a mule's process does anything,
// each time; one that fails keeps that mule back, and is tried again.
func TestMuleHooks(t *testing.T) {
	s := newJobSite(t, "hook-as-mule = exec:echo try $LIEGE_MULE >> notes; [ $LIEGE_MULE = 1 ] || [ -e go ]\nhook-as-mule = appendn:notes done\n")
	s.core.Alone()
	s.await("forked mule1")
	s.until("a second try", func() bool { return strings.Count(s.notes(), "try 2") > 1 })
	order := func(want ...string) {
		t.Helper()
		rest := s.notes()
		for _, line := range want {
			var ok bool
			if _, rest, ok = strings.Cut(rest, line+"\n"); !ok {
				t.Fatalf("no %q in its place; the notes are\n%s", line, s.notes())
			}
		}
	}
	order("try 1", "done", "forked mule1")
	if got := s.notes(); strings.Contains(got, "forked mule2") || strings.Count(got, "done") != 1 {
		t.Errorf("the notes are\n%s", got)
	}
	if b, _ := os.ReadFile(s.log); !strings.Contains(string(b), "a mule does not start") || !strings.Contains(string(b), "exit status 1") {
		t.Error("nothing tells of the failure")
	}
	if err := os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.await("forked mule2")
	order("done", "done", "forked mule2")
	s.until("the mule's pid", func() bool { return s.stats().Mules[0].PID > 0 })
	syscall.Kill(s.stats().Mules[0].PID, syscall.SIGKILL)
	s.until("another mule", func() bool { return strings.Count(s.notes(), "forked mule1") == 2 })
	order("forked mule2", "try 1", "done", "forked mule1")
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// TestMuleHookEnds: a stop waits for no hook of a mule, nor does a mule start after it.
func TestMuleHookEnds(t *testing.T) {
	s := newJobSite(t, "hook-as-mule = exec:echo $$ >> hooks; exec sleep 1000\n")
	s.core.Alone()
	s.until("the hook", func() bool { _, err := os.Stat(filepath.Join(s.dir, "hooks")); return err == nil })
	began := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 4*time.Second || strings.Contains(s.notes(), "forked mule") {
		t.Errorf("it took %v; the notes are\n%s", d, s.notes())
	}
}
