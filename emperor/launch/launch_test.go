package launch

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/expand"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/emperor/resolve"
	"liege/internal/testenv"
	"liege/sandbox"
	"liege/sandbox/seccomp"
	"liege/vassal"
	"liege/vassal/inifile"
)

func TestMain(m *testing.M) {
	asuser.Main()
	sandbox.Init()
	os.Exit(testenv.Main(m))
}

const (
	patience = 30 * time.Second
	nobody   = 65534
)

// rig is one Emperor's side of the world, without the Emperor.
type rig struct {
	t    *testing.T
	dir  string
	host *Host
	x    *expand.Expander
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	// Below /srv: a vassal's own /tmp hides what is below the host's.
	dir, err := os.MkdirTemp("/srv", "liege-launch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir}
	r.host = r.newHost("run")
	return r
}

// newHost makes a Host over the run directory sub, closed with the test.
func (r *rig) newHost(sub string) *Host {
	r.t.Helper()
	t := r.t
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	run := filepath.Join(r.dir, sub)
	records, err := record.Open(run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	bin := testenv.Binaries(t)
	boxes, err := sandbox.NewManager(sandbox.ManagerConfig{
		RunDir: run, Stage: filepath.Join(bin, "liege-stage"), Core: filepath.Join(bin, "liege-core"), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := boxes.Close(); err != nil {
			t.Error(err)
		}
	})
	filter, err := seccomp.Default()
	if err != nil {
		t.Fatal(err)
	}
	relay, err := NewRelay(filepath.Join(bin, "liege-relay"))
	if err != nil {
		t.Fatal(err)
	}
	porter, err := listen.NewPorter()
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- porter.Run(running) }()
	t.Cleanup(func() {
		end()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	cfg := inifile.DefaultEmperorConfig()
	cfg.RunDir, cfg.LogDir, cfg.StateDir, cfg.Vassals = run, filepath.Join(r.dir, "log"), filepath.Join(r.dir, "state"), nil
	cfg.Ceilings.MinUID = 1
	r.x = expand.New(expand.Settings{Prepare: resolve.FromEmperor(cfg, inifile.NewOSHost(nil))})
	return &Host{
		Sandboxes: boxes, Records: records, Sockets: listen.NewRegistry(), Porter: porter, Logs: logs.Settings{Dir: cfg.LogDir},
		Users: resolve.Files{}, Seccomp: filter, Relay: relay, Mailer: filepath.Join(bin, "sbin"), Quotas: NewProjects(cfg.StateDir, func(vassal.Name) bool { return false }), Expand: r.x.Expand, Log: log,
		HoldUID: func() (int, error) { return resolve.FirstAutoUID, nil },
	}
}

// file is a vassal's file; uid 0: the operator's.
func (r *rig) file(name, text string, uid int) emperor.File {
	text = strings.ReplaceAll(text, "DIR", r.dir)
	path := filepath.Join(r.dir, name+".ini")
	r.write(path, text)
	return emperor.File{Name: vassal.Name(name), Path: path, Text: []byte(text), Trust: vassal.Trust{Operator: uid == 0, UID: uid, GID: uid}}
}

func (r *rig) write(path, text string) string {
	r.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *rig) launcher(name vassal.Name) emperor.Launcher {
	l := r.host.Launcher(name)
	r.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return l
}

func (r *rig) prepare(l emperor.Launcher, f emperor.File) emperor.Prepared {
	r.t.Helper()
	p, ps := l.Prepare(r.t.Context(), f)
	if ps.Failed() {
		r.t.Fatal(ps)
	}
	return p
}

// start launches f and ends it with the test.
func (r *rig) start(l emperor.Launcher, f emperor.File, gen int) (emperor.Instance, emperor.Prepared) {
	r.t.Helper()
	p := r.prepare(l, f)
	in, err := l.Launch(r.t.Context(), p, gen)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.finish(in) })
	return in, p
}

func (r *rig) finish(in emperor.Instance) {
	r.t.Helper()
	if err := in.Kill(); err != nil {
		r.t.Error(err)
	}
	r.gone(in)
}

func (r *rig) gone(in emperor.Instance) {
	r.t.Helper()
	select {
	case <-in.Done():
	case <-time.After(patience):
		r.t.Fatal("it does not end")
	}
}

func (r *rig) ready(in emperor.Instance) {
	r.t.Helper()
	select {
	case <-in.Ready():
	case <-in.Done():
		r.t.Fatalf("ended: %v %v", in.Exit(), in.Problems())
	case <-time.After(patience):
		r.t.Fatal("not ready")
	}
}

// get asks from outside: this process cannot connect to inet addresses.
func (r *rig) get(addr string) string {
	r.t.Helper()
	args := []string{"-sS", "-m", "10", "http://" + addr + "/"}
	if addr[0] == '/' {
		args = []string{"-sS", "-m", "10", "--unix-socket", addr, "http://vassal/"}
	}
	cmd := exec.Command("curl", args...)
	r.host.Sandboxes.Outside(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

const static = "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:0\nhttp-socket = DIR/sock/s.sock\ncheck-static = DIR/www\nstatic-index = index.html\n"

func (r *rig) site() {
	r.write("www/index.html", "hello")
	dir := filepath.Join(r.dir, "sock")
	if err := os.Mkdir(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		r.t.Fatal(err)
	}
}

func TestGenerations(t *testing.T) {
	r := newRig(t)
	r.site()
	l := r.launcher("site")
	one, p := r.start(l, r.file("site", static, 0), 1)
	r.ready(one)
	listens := p.View().Listen
	if len(listens) != 2 || strings.HasSuffix(listens[0], ":0") {
		t.Fatalf("listens on %q", listens)
	}
	for _, a := range listens {
		if got := r.get(a); got != "hello" {
			t.Errorf("%s: %s", a, got)
		}
	}
	rs, err := r.host.Records.Read("site")
	if err != nil || len(rs) != 1 || !rs[0].Ready || rs[0].PID != one.PID() || len(rs[0].Listeners) != 2 || rs[0].Listeners[0].Cookie == 0 {
		t.Errorf("record %+v, %v", rs, err)
	}
	// The next generation has the same sockets; one that fails leaves all.
	two, p2 := r.start(l, r.file("site", static+"static-index = other\n", 0), 2)
	r.ready(two)
	if got := p2.View().Listen; got[0] != listens[0] {
		t.Errorf("listens on %q, before on %q", got, listens)
	}
	if err := one.Drain(); err != nil {
		t.Error(err)
	}
	r.gone(one)
	if ps := one.Problems(); len(ps) > 0 {
		t.Errorf("a drained generation has problems: %v", ps)
	}
	if got := r.get(listens[0]); got != "hello" {
		t.Errorf("after the drain: %s", got)
	}
	if err := two.Drain(); err != nil {
		t.Error(err)
	}
	r.gone(two)
	if rs, err := r.host.Records.Read("site"); err != nil || len(rs) != 0 {
		t.Errorf("records left: %+v, %v", rs, err)
	}
	log, err := os.ReadFile(p.View().Log)
	if err != nil || !strings.HasPrefix(string(log), "liege: generation 1: network: none, may connect to: nothing\n") {
		t.Errorf("log: %q, %v", log, err)
	}
}

// A start that fails says where, and leaves nothing: newRig looks for leaks.
func TestFailures(t *testing.T) {
	r := newRig(t)
	r.site()
	r.write("app/bad.py", "import nosuchmodule\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct{ name, text, code, step, want string }{
		{"listener", "[vassal]\nuid = nobody\ncheck-static = DIR/www\nhttp-socket = " + taken.Addr().String() + "\n",
			"listen-in-use", "listen", fmt.Sprintf("pid %d", os.Getpid())},
		{"hook", "[vassal]\nuid = nobody\ncheck-static = DIR/www\nhttp-socket = 127.0.0.1:0\nhook-as-root = exec:echo why; exit 3\n",
			"hook-failed", "hook as-root", "why"},
		{"app", "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/bad.py\n",
			"import-error", "", "nosuchmodule"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := r.host.Launcher("bad")
			p := r.prepare(l, r.file("bad", tt.text, 0))
			in, err := l.Launch(t.Context(), p, 1)
			var ps vassal.Problems
			if err == nil {
				r.gone(in)
				ps = in.Problems()
			} else {
				ps = vassal.AsProblems(err, "", "")
			}
			first := ps.First()
			if first == nil || first.Code != tt.code || tt.step != "" && first.Step != tt.step || !strings.Contains(first.Message, tt.want) || !strings.HasSuffix(first.File, "bad.ini") {
				t.Errorf("problems %+v; want %s %q", ps, tt.code, tt.want)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(r.host.Records.Vassal("bad")); err == nil {
				t.Error("the run directory of the vassal is left")
			}
		})
	}
}

// A tenant's file is read, its paths are opened and its sockets are made with
// the tenant's rights.
func TestTenant(t *testing.T) {
	r := newRig(t)
	r.site()
	secret := r.write("secret/key", "root's")
	if err := os.Chmod(filepath.Dir(secret), 0o700); err != nil {
		t.Fatal(err)
	}
	l := r.launcher("tenant")
	text := "[vassal]\nhttp-socket = DIR/sock/t.sock\nchdir = DIR/sock\ncheck-static = DIR/www\nstatic-index = index.html\n"
	in, p := r.start(l, r.file("tenant", text, nobody), 1)
	r.ready(in)
	if v := p.View(); v.UID != nobody {
		t.Errorf("runs as %d", v.UID)
	}
	if got := r.get(r.dir + "/sock/t.sock"); got != "hello" {
		t.Error(got)
	}
	for name, tt := range map[string]struct{ line, want string }{
		"include": {"include = DIR/secret/key\n", "permission denied"},
		"bind":    {"check-static = DIR/secret\nbind = DIR/secret/key\n", "cannot be reached"},
		"hook":    {"hook-as-root = exec:id\n", "root"},
		"uid":     {"uid = root\n", "belongs to"},
	} {
		_, ps := l.Prepare(t.Context(), r.file("tenant", text+tt.line, nobody))
		if first := ps.First(); first == nil || !strings.Contains(first.Message, tt.want) {
			t.Errorf("%s: %v; want %q", name, ps, tt.want)
		}
	}
}

// The tenant breaks its listener for good; after a restart it serves
// (KERNEL 31, test 18).
func TestBrokenListener(t *testing.T) {
	r := newRig(t)
	app := r.write("app/app.py", `
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
`)
	text := "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	l := r.launcher("broken")
	one, p := r.start(l, r.file("broken", text, 0), 1)
	r.ready(one)
	l1, ok := l.(*launcher)
	if !ok {
		t.Fatal("no launcher")
	}
	// The core has the same sockets: what it does to one, it does to ours.
	for _, b := range l1.sockets.Bound() {
		shutdown(t, b.File)
	}
	addr := p.View().Listen[0]
	if got := r.get(addr); got == "hello" {
		t.Fatal("the listener was not broken")
	}
	if err := os.WriteFile(app, []byte("def application(e, s):\n    s('200 OK', [])\n    return [b'mended']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	two, p := r.start(l, r.file("broken", text, 0), 2)
	r.ready(two)
	if got := r.get(p.View().Listen[0]); got != "mended" {
		t.Errorf("after a restart: %s", got)
	}
}

// What the next Emperor would take out of a survivor is the socket that the
// record names, and nothing else (KERNEL 19). The whole story, with kill -9, is
// in e2e.
func TestTakeBack(t *testing.T) {
	r := newRig(t)
	r.site()
	l := r.host.Launcher("site")
	f := r.file("site", static, 0)
	one, _ := r.start(l, f, 1)
	r.ready(one)
	if !r.host.Keep("site", 1) || r.host.Keep("site", 2) || r.host.Keep("other", 1) {
		t.Error("Keep: want generation 1 of site and no other")
	}
	rs, err := r.host.Records.Read("site")
	if err != nil || len(rs) != 1 {
		t.Fatal(rs, err)
	}
	// What a stranger may have put into the record is not believed.
	pidfd := openPidfd(t, one.PID())
	where := socketsOf(one.PID())
	k := rs[0].Listeners[0]
	fd := where[fmt.Sprintf("socket:[%d]", k.Inode)]
	got, err := takeOne(pidfd, fd, k)
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
	bad := k
	bad.Cookie++
	if f, err := takeOne(pidfd, fd, bad); err == nil {
		f.Close()
		t.Error("another socket was taken")
	}
	bad = k
	bad.Address = "/run/x.sock"
	if f, err := takeOne(pidfd, fd, bad); err == nil {
		f.Close()
		t.Error("a socket of another family was taken")
	}
	if f, err := takeOne(pidfd, 0, k); err == nil {
		f.Close()
		t.Error("something that is no socket was taken")
	}
	if err := one.Drain(); err != nil {
		t.Error(err)
	}
	r.gone(one)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func shutdown(t *testing.T, f *os.File) {
	t.Helper()
	if err := unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
}

func openPidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// The files that the outside world expects: where logto says, and the pid.
func TestLogtoAndPidfile(t *testing.T) {
	r := newRig(t)
	r.site()
	text := "[vassal]\nuid = nobody\nchdir = DIR/sock\nhttp-socket = DIR/sock/s.sock\ncheck-static = DIR/www\nstatic-index = index.html\n" +
		"logto = DIR/sock/app.log\npidfile = DIR/sock/app.pid\nhook-as-user = print:hello from the hook\n"
	l := r.launcher("files")
	one, p := r.start(l, r.file("files", text, 0), 1)
	r.ready(one)
	if got := p.View().Log; got != r.dir+"/sock/app.log" {
		t.Errorf("status says that the log is %s", got)
	}
	pid := filepath.Join(r.dir, "sock/app.pid")
	if b, err := os.ReadFile(pid); err != nil || string(b) != fmt.Sprintf("%d\n", one.PID()) {
		t.Errorf("pidfile: %q, %v; want %d", b, err, one.PID())
	}
	if p.Changed(t.Context()) {
		t.Error("it shall reload though nobody asked")
	}
	if err := syscall.Kill(one.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !p.Changed(t.Context()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP to the process of the pidfile is no wish to reload")
		}
	}
	if p.Changed(t.Context()) {
		t.Error("one SIGHUP is two wishes")
	}
	two, _ := r.start(l, r.file("files", text, 0), 2)
	r.ready(two)
	r.finish(one)
	if b, err := os.ReadFile(pid); err != nil || string(b) != fmt.Sprintf("%d\n", two.PID()) {
		t.Errorf("pidfile of the second: %q, %v; want %d", b, err, two.PID())
	}
	if got := r.get(r.dir + "/sock/s.sock"); got != "hello" {
		t.Error(got)
	}
	r.finish(two)
	if _, err := os.Stat(pid); err == nil {
		t.Error("the pidfile is left")
	}
	b, err := os.ReadFile(filepath.Join(r.dir, "sock/app.log"))
	if err != nil || !strings.Contains(string(b), "hello from the hook") || strings.Contains(string(b), "liege: generation") {
		t.Errorf("logto: %q, %v", b, err)
	}
}

// A path that its user swaps between check and start is not mounted
// (KERNEL 14): neither in the user's own file nor in the operator's.
func TestSwapped(t *testing.T) {
	r := newRig(t)
	r.site()
	home := filepath.Join(r.dir, "home")
	for _, d := range []string{home, home + "/app", home + "/other"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(to func() error) {
		if err := os.Rename(home+"/app", home+"/away"); err != nil {
			t.Fatal(err)
		}
		if err := to(); err != nil {
			t.Fatal(err)
		}
	}
	back := func() {
		if err := os.RemoveAll(home + "/app"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(home+"/away", home+"/app"); err != nil {
			t.Fatal(err)
		}
	}
	for _, uid := range []int{0, nobody} {
		text := "[vassal]\nhttp-socket = DIR/sock/w.sock\nchdir = DIR/sock\ncheck-static = DIR/home/app\n"
		if uid == 0 {
			text += "uid = nobody\n"
		}
		for name, to := range map[string]func() error{
			"link":      func() error { return os.Symlink("/root", home+"/app") },
			"directory": func() error { return os.Mkdir(home+"/app", 0o755) },
			"nothing":   func() error { return nil },
			"not":       nil, // the control
		} {
			l := r.host.Launcher("swap")
			p := r.prepare(l, r.file("swap", text, uid))
			if to != nil {
				swap(to)
			}
			in, err := l.Launch(t.Context(), p, 1)
			if (err == nil) != (to == nil) {
				t.Errorf("uid %d, swapped for %s: started %v, %v", uid, name, err == nil, err)
			}
			if err == nil {
				r.finish(in)
			} else if first := vassal.AsProblems(err, "", "").First(); first.Step != "mount" || first.Key != "check-static" || first.Line != 4 {
				t.Errorf("uid %d, swapped for %s: %+v", uid, name, first)
			}
			if to != nil {
				back()
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
