package serve

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

// alike are expressions whose values are the same in uWSGI.
const alike = `uwsgi.cache_set('k', 'v')
uwsgi.cache_set('k', 'v')
uwsgi.cache_get('k')
uwsgi.cache_get('nothere')
uwsgi.cache_get('k', 'nocache')
uwsgi.cache_set('k', 'v', 0, 'nocache')
uwsgi.cache_exists('k')
uwsgi.cache_exists('nothere')
uwsgi.cache_update('k', b'w', 10)
uwsgi.cache_del('k')
uwsgi.cache_del('k')
uwsgi.cache_inc('n')
uwsgi.cache_mul('n')
uwsgi.cache_dec('n', 9)
uwsgi.cache_div('n')
uwsgi.cache_num('n')
uwsgi.cache_num('zz')
uwsgi.cache_keys()
uwsgi.cache_clear()
uwsgi.cache_clear('nocache')
uwsgi.cache_keys('nocache')
uwsgi.cache_num('n', 'nocache')
uwsgi.cache_inc('n', 1, 0, 'nocache')
uwsgi.is_locked()
uwsgi.lock()
uwsgi.is_locked()
uwsgi.unlock()
uwsgi.lock(1)
uwsgi.unlock(1)
uwsgi.register_signal(17, '', print)
uwsgi.signal_registered(17)
uwsgi.signal_registered(19)
uwsgi.add_timer(17, 1000)
uwsgi.add_rb_timer(17, 1000)
uwsgi.add_rb_timer(17, 1000, 3)
uwsgi.add_cron(17, 0, 0, 1, 1, -1)
uwsgi.add_file_monitor(17, '/')
uwsgi.mule_msg('hello')
uwsgi.mule_msg(b'hello', 1)
uwsgi.mule_msg(b'hello', 9)
uwsgi.farm_msg('f1', b'x')
uwsgi.mule_msg(b'x', b'f1')
uwsgi.mule_msg(b'x', b'nosuch')
uwsgi.signal(-1), uwsgi.signal(256)
uwsgi.is_a_reload
uwsgi.queue_size
sorted((k, type(v).__name__) for k, v in uwsgi.workers()[0]['apps'][0].items())
uwsgi.in_farm()
uwsgi.in_farm('f1')
uwsgi.mule_id()
uwsgi.mule_get_msg()
uwsgi.farm_get_msg()
type(uwsgi.spool({b'a': b'b', b'at': b'9999999999'}))
type(uwsgi.spool({b'a': b'b', b'body': b'x' * 70000, b'at': b'9999999999'}))
uwsgi.spool({'a': 'b'})
uwsgi.spool()
type(uwsgi.spooler_jobs())
uwsgi.spoolers
type(uwsgi.spooler_pid())
type(uwsgi.spooler_pids())
uwsgi.i_am_the_spooler()
uwsgi.metric_get('mine')
uwsgi.metric_inc('mine')
uwsgi.metric_mul('mine', 9)
uwsgi.metric_div('mine', 2)
uwsgi.metric_dec('mine')
uwsgi.metric_get('mine')
uwsgi.metric_set('nope', 1)
uwsgi.metric_set_max('mine', 50)
uwsgi.metric_set_min('mine', 7)
uwsgi.metric_get('mine')
sorted((k, type(v).__name__) for k, v in uwsgi.workers()[0].items())
uwsgi.worker_id()
uwsgi.numproc
[type(v) for v in (uwsgi.masterpid(), uwsgi.started_on, uwsgi.hostname, uwsgi.version, uwsgi.magic_table, uwsgi.total_requests(), uwsgi.mem(), uwsgi.micros(), uwsgi.opt)]
uwsgi.version_info[:2]
[uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY, uwsgi.SPOOL_IGNORE, uwsgi.unbit, uwsgi.loop, uwsgi.cores, uwsgi.has_threads]
uwsgi.log('hi')
uwsgi.logsize()
uwsgi.listen_queue()
uwsgi.accepting()
uwsgi.ready()
uwsgi.alarm('nope', 'x')
uwsgi.rpc_list()
uwsgi.register_rpc('f', lambda *a: b'r' + b''.join(a))
uwsgi.rpc_list()
uwsgi.rpc(b'', b'f', b'1', b'2')
uwsgi.call(b'f', b'1')
uwsgi.call(b'nof')
uwsgi.register_rpc('number', lambda *a: 5)
uwsgi.rpc(b'', b'number')
[type(e).__name__ for e in wrong( lambda: uwsgi.cache_set('a', 1), lambda: uwsgi.cache_set('a', None), lambda: uwsgi.cache_get(1), lambda: uwsgi.cache_exists(7), lambda: uwsgi.cache_set('a', 'b', 'x'), lambda: uwsgi.cache_set('a', 'b', None), lambda: uwsgi.cache_inc('a', 'x'), lambda: uwsgi.lock('x'), lambda: uwsgi.lock(99), lambda: uwsgi.lock(-1), lambda: uwsgi.unlock(99), lambda: uwsgi.is_locked(99), lambda: uwsgi.signal('x'), lambda: uwsgi.register_signal('x', '', print), lambda: uwsgi.add_timer(17, 'x'), lambda: uwsgi.add_timer('x', 1), lambda: uwsgi.add_file_monitor(17, 5), lambda: uwsgi.mule_msg(5), lambda: uwsgi.mule_msg(b'x', 'nosuch'), lambda: uwsgi.farm_msg('f1', 5), lambda: uwsgi.metric_set('mine', 'x'), lambda: uwsgi.metric_get(5), lambda: uwsgi.alarm('nope', 5), lambda: uwsgi.spool({b'a': 1}), lambda: uwsgi.spool('x'), lambda: uwsgi.i_am_the_lord())]
uwsgi.i_am_the_lord('x'), uwsgi.lord_scroll('x'), uwsgi.scrolls('x')
uwsgi.cache_get('a'), uwsgi.cache_exists('a')
uwsgi.set_user_harakiri(0)
uwsgi.set_warning_message('x')
uwsgi.is_connected(999)
uwsgi.queue_slot(), uwsgi.queue_pull_slot()
uwsgi.queue_last(), uwsgi.queue_last(3), uwsgi.queue_get(0), uwsgi.queue_get(99), uwsgi.queue_get(-1), uwsgi.queue_pull()
uwsgi.queue_push('one'), uwsgi.queue_push(b'two'), uwsgi.queue_push(b'3\\0'), uwsgi.queue_push(b'')
uwsgi.queue_slot(), uwsgi.queue_pull_slot()
uwsgi.queue_last(), uwsgi.queue_last(0), uwsgi.queue_last(2), uwsgi.queue_last(9)
uwsgi.queue_get(0), uwsgi.queue_get(2), uwsgi.queue_get(3)
uwsgi.queue_pop(), uwsgi.queue_slot(), uwsgi.queue_last()
uwsgi.queue_pull(), uwsgi.queue_pull_slot(), uwsgi.queue_slot()
uwsgi.queue_set(7, b'set'), uwsgi.queue_set(8, b'x'), uwsgi.queue_set(-1, b'x'), uwsgi.queue_set(3, b''), uwsgi.queue_set(3, 's')
uwsgi.queue_get(7), uwsgi.queue_slot(), uwsgi.queue_last(8)
[uwsgi.queue_push(b'%d' % i) for i in range(9)], uwsgi.queue_slot(), uwsgi.queue_pull_slot()
uwsgi.queue_last(8)
uwsgi.queue_pull(), uwsgi.queue_pull(), uwsgi.queue_pull_slot(), uwsgi.queue_slot()
uwsgi.queue_push(b'x' * 9000), uwsgi.queue_push(b'x' * 8176), len(uwsgi.queue_last())
[type(e).__name__ for e in wrong(lambda: uwsgi.queue_push(5), lambda: uwsgi.queue_push(), lambda: uwsgi.queue_get('x'), lambda: uwsgi.queue_set('x', b'y'), lambda: uwsgi.queue_last('x'), lambda: uwsgi.queue_set(1))]
[(k, uwsgi.opt.get(k)) for k in ('own', 'ph', 'empty', 'wsgi-file', 'processes', 'mules', 'locks', 'cache2', 'master', 'nothere', 'metric', 'farm')]`

// TestModuleDifferential: the functions of the uwsgi module return what uWSGI's
// do, in a worker of each.
func TestModuleDifferential(t *testing.T) {
	testenv.Need(t, testenv.Uwsgi, testenv.Python3)
	program := "import os, uwsgi\ndef wrong(*calls):\n for f in calls:\n  try: f(); yield None\n  except Exception as e: yield e\ndef hook():\n if uwsgi.worker_id() != 1: return\n out = []\n for x in open(os.environ['EXPR']).read().splitlines():\n" +
		"  try: v = repr(eval(x))\n  except Exception as e: v = 'raise %s: %s' % (type(e).__name__, e)\n  out.append(x + ' -> ' + v)\n" +
		" open(os.environ['OUT'] + '.tmp', 'w').write('\\n'.join(out)); os.rename(os.environ['OUT'] + '.tmp', os.environ['OUT'])\n" +
		"uwsgi.post_fork_hook = hook\ndef application(e, s): pass\n"
	dir := t.TempDir()
	for name, text := range map[string]string{"app.py": program, "expr": alike} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spool := filepath.Join(dir, "spool")
	cmd := exec.Command("uwsgi", "--plugins", "python3", "--master", "--processes", "1", "--mules", "2", "--farm", "f1:1,2", "--spooler", spool,
		"--locks", "2", "--queue", "8", "--cache2", "name=c,items=10", "--enable-metrics", "--metric", "name=mine,type=gauge", "--enable-threads",
		"--set", "own=a", "--set", "own=b", "--set-ph", "ph=gr\u00fcn", "--set", "empty=", "--socket", filepath.Join(dir, "sock"), "--wsgi-file", filepath.Join(dir, "app.py"))
	cmd.Env = append(os.Environ(), "EXPR="+filepath.Join(dir, "expr"), "OUT="+filepath.Join(dir, "theirs"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
	}()
	theirs := awaitFile(t, filepath.Join(dir, "theirs"))
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)

	s := bareSite(t, "http-socket = 127.0.0.1:1\nwsgi-file = "+filepath.Join(dir, "app.py")+"\nprocesses = 1\nown = a\nown = b\nset-ph = ph=gr\u00fcn\nempty =\nmules = 2\nfarm = f1:1,2\nspooler = "+spool+
		"\nlocks = 2\nqueue = 8\ncache2 = name=c,items=10\nenable-metrics = true\nmetric = name=mine,type=gauge\nenv = EXPR="+filepath.Join(dir, "expr")+"\nenv = OUT="+filepath.Join(dir, "ours")+"\n")
	s.dir = dir
	ours := awaitFile(t, filepath.Join(dir, "ours"))
	if len(theirs) != len(ours) {
		t.Fatalf("%d values, uWSGI has %d", len(ours), len(theirs))
	}
	for i := range ours {
		if ours[i] != theirs[i] {
			t.Errorf("got  %s\nwant %s", ours[i], theirs[i])
		}
	}
}

// awaitFile is the lines of a file that is about to be there.
func awaitFile(t *testing.T, path string) []string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil {
			return strings.Split(string(b), "\n")
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not there", path)
		}
	}
}
