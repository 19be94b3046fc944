package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/emperor/record"
	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const enough = 60 * time.Second

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args string
		want flags
		code int
	}{
		{"", flags{dirs: []string{}}, 0},
		{"--run-dir /r --log-dir=/l a b", flags{runDir: "/r", logDir: "/l", dirs: []string{"a", "b"}}, 0},
		{"a --log-format json", flags{logFormat: "json", dirs: []string{"a"}}, 0},
		{"--one f.ini", flags{one: "f.ini", dirs: []string{}}, 0},
		{"--one f.ini dir", flags{}, exitUsage},
		{"--log-format xml", flags{}, exitUsage},
		{"--no-such", flags{}, exitUsage},
	} {
		got, err := parse(strings.Fields(tt.args))
		code := 0
		if e, ok := errors.AsType[*exitError](err); ok {
			code = e.code
		}
		if code != tt.code {
			t.Errorf("%q: %v, want code %d", tt.args, err, tt.code)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(flags{}, apart{})); code == 0 && diff != "" {
			t.Errorf("%q: %s", tt.args, diff)
		}
	}
}

// Flags win over emperor.ini; what is wrong in that is told with its line.
func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "emperor.ini")
	write(t, file, "[emperor]\nrun-dir = /from/file\nlog-dir = /from/file\nvassals = /from/file\n[ceilings]\nmemory-max = 1G\n")
	cfg, _, err := load(flags{config: file, runDir: "/from/flag", dirs: []string{"/a"}})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.RunDir, cfg.LogDir, cfg.Vassals[0], fmt.Sprint(cfg.Policy.MemoryMax.Value)}
	if diff := cmp.Diff([]string{"/from/flag", "/from/file", "/a", fmt.Sprint(float64(1 << 30))}, got); diff != "" {
		t.Error(diff)
	}
	write(t, file, "[emperor]\nstart-concurrency = many\n[ceiling]\nmemory-max = 1G\n")
	_, _, err = load(flags{config: file})
	e, ok := errors.AsType[*exitError](err)
	if !ok || e.code != exitConfig || e.hint != "liege check "+file {
		t.Errorf("a wrong line: %v", err)
	}
	var all []string
	for _, p := range problems(err) {
		all = append(all, p.Error())
	}
	want := []string{file + ":2: start-concurrency: \"many\" is not a number", file + ":3: unknown section [ceiling]; did you mean [ceilings]?"}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	if _, _, err = load(flags{config: file + ".none"}); err == nil {
		t.Error("a file that was named and is missing: no error")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// world is a place for Emperors.
type world struct {
	t   *testing.T
	dir string
	bin string
	env []string // besides this process's own, of the Emperors to come
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir, err := os.MkdirTemp("/srv", "liege-main-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, bin: filepath.Join(testenv.Binaries(t), "liege-emperor")}
	write(t, dir+"/www/index.html", "hello")
	return w
}

// process is a running liege-emperor.
type process struct {
	*exec.Cmd
	t     *testing.T
	out   bytes.Buffer
	ended chan error
}

func (w *world) run(args ...string) *process {
	w.t.Helper()
	p := &process{Cmd: exec.Command(w.bin, args...), t: w.t, ended: make(chan error, 1)}
	p.Stdout, p.Stderr = &p.out, &p.out
	p.Env = append(os.Environ(), w.env...)
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { p.ended <- p.Wait() }()
	w.t.Cleanup(func() {
		if p.ProcessState == nil {
			p.end(syscall.SIGTERM)
		}
		if w.t.Failed() {
			w.t.Logf("%s: %s", strings.Join(args, " "), &p.out)
		}
	})
	return p
}

// emperor runs one with directories of its own below sub.
func (w *world) emperor(sub string) *process {
	d := filepath.Join(w.dir, sub)
	if err := os.MkdirAll(d+"/vassals", 0o755); err != nil {
		w.t.Fatal(err)
	}
	return w.run("--config", w.config(), "--run-dir", d+"/run", "--log-dir", d+"/log", "--state-dir", d+"/state", d+"/vassals")
}

func (w *world) config() string {
	f := filepath.Join(w.dir, "emperor.ini")
	write(w.t, f, "[emperor]\n")
	return f
}

// end signals p and returns its exit code.
func (p *process) end(sig syscall.Signal) int {
	p.t.Helper()
	if err := p.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	return p.code()
}

func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(enough):
		p.t.Fatalf("it does not end:\n%s", &p.out)
		return -1
	}
}

// ready waits until every name serves and returns their pids.
func (w *world) ready(sub string, names ...vassal.Name) (pids []int) {
	w.t.Helper()
	for end := time.Now().Add(enough); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		pids = nil
		for _, n := range names {
			files, err := filepath.Glob(filepath.Join(w.dir, sub, "run/vassals", n.Dir(), "gen-*.json"))
			if err != nil {
				w.t.Fatal(err)
			}
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil {
					if r, err := record.Parse(b); err == nil && r.Ready && r.Name == n {
						pids = append(pids, r.PID)
					}
				}
			}
		}
		if len(pids) == len(names) {
			return pids
		}
	}
	w.t.Fatalf("%s: %q are not all ready", sub, names)
	return nil
}

func (w *world) vassal(file string) string {
	f := filepath.Join(w.dir, file)
	write(w.t, f, "[vassal]\nuid = nobody\nhttp-socket = 127.0.0.1:0\ncheck-static = "+w.dir+"/www\n")
	return f
}

// Two Emperors with different run directories: one is killed and started
// again, the other doesn't notice (KERNEL 22, test 14). Vassals may have the
// names of cgroup files.
func TestTwoEmperors(t *testing.T) {
	w := newWorld(t)
	odd := []vassal.Name{"cgroup.procs", "memory.max", "tasks"}
	for _, n := range odd {
		w.vassal("a/vassals/" + string(n) + ".ini")
	}
	w.vassal("b/vassals/tasks.ini")
	a, b := w.emperor("a"), w.emperor("b")
	pids := w.ready("a", odd...)
	w.ready("b", "tasks")
	if code := b.end(syscall.SIGKILL); code != -1 {
		t.Errorf("killed, exit code %d", code)
	}
	b = w.emperor("b")
	w.until(func() bool { return len(w.ready("b", "tasks")) == 1 && w.hasGen("b", "tasks", 2) })
	if now := w.ready("a", odd...); !slices.Equal(now, pids) {
		t.Errorf("the other Emperor's vassals: %v, before %v", now, pids)
	}
	second := w.emperor("a")
	if code := second.code(); code != exitFailed || !strings.Contains(second.out.String(), fmt.Sprintf("is in use by the Emperor with pid %d", a.Process.Pid)) {
		t.Errorf("a second Emperor on one run directory: %d %s", code, &second.out)
	}
	for _, p := range []*process{a, b} {
		if code := p.end(syscall.SIGTERM); code != 0 {
			t.Errorf("ended with %d", code)
		}
	}
	for _, sub := range []string{"a", "b"} {
		if es, err := os.ReadDir(filepath.Join(w.dir, sub, "run/vassals")); err != nil || len(es) != 0 {
			t.Errorf("%s: left in the run directory: %v, %v", sub, es, err)
		}
	}
}

func (w *world) until(ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(enough); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("it does not come about")
		}
	}
}

func (w *world) hasGen(sub string, n vassal.Name, gen int) bool {
	_, err := os.Stat(filepath.Join(w.dir, sub, "run/vassals", n.Dir(), fmt.Sprintf("gen-%d.json", gen)))
	return err == nil
}

// TestHandOver: an Emperor that hands over ends at once and well, its vassals
// serve on and have saved what they count, and the next one takes them over.
func TestHandOver(t *testing.T) {
	w := newWorld(t)
	names := []vassal.Name{"one", "two"}
	for _, n := range names {
		w.vassal("a/vassals/" + string(n) + ".ini")
	}
	a := w.emperor("a")
	pids := w.ready("a", names...)
	if code := a.end(syscall.SIGUSR2); code != 0 {
		t.Errorf("ended with %d", code)
	}
	if now := w.ready("a", names...); !slices.Equal(now, pids) {
		t.Errorf("%v serve now, before %v", now, pids)
	}
	for i, n := range names {
		if _, err := record.StartTime(pids[i]); err != nil {
			t.Errorf("%s does not outlive its Emperor: %v", n, err)
		}
		if b, err := os.ReadFile(filepath.Join(w.dir, "a/state/v-"+string(n)+".json")); err != nil || strings.Contains(string(b), `"cpu_usec":0,"requests"`) {
			t.Errorf("%s: what it counts is not saved: %v %s", n, err, b)
		}
	}
	a = w.emperor("a")
	w.until(func() bool {
		return len(w.ready("a", names...)) == 2 && w.hasGen("a", "one", 2) && w.hasGen("a", "two", 2)
	})
	if code := a.end(syscall.SIGTERM); code != 0 {
		t.Errorf("ended with %d", code)
	}
}

// A survivor whose file was removed meanwhile is ended by the next Emperor.
func TestOrphan(t *testing.T) {
	w := newWorld(t)
	f := w.vassal("a/vassals/gone.ini")
	a := w.emperor("a")
	pid := w.ready("a", "gone")[0]
	a.end(syscall.SIGKILL)
	if err := os.Remove(f); err != nil {
		t.Fatal(err)
	}
	if _, err := record.StartTime(pid); err != nil {
		t.Fatalf("it does not survive its Emperor: %v", err)
	}
	a = w.emperor("a")
	w.until(func() bool { _, err := record.StartTime(pid); return err != nil }) // gone, or dead and not reaped yet
	if code := a.end(syscall.SIGTERM); code != 0 {
		t.Errorf("ended with %d", code)
	}
}

// A survivor without a file is ended even if it does not heed a signal: it is
// a tenant's, and its removal may be what the operator has against it.
func TestStubbornOrphan(t *testing.T) {
	w := newWorld(t)
	f := w.vassal("a/vassals/stubborn.ini")
	text, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, string(text)+"drain-timeout = 1\n")
	a := w.emperor("a")
	pid := w.ready("a", "stubborn")[0]
	a.end(syscall.SIGKILL)
	if err := errors.Join(os.Remove(f), syscall.Kill(pid, syscall.SIGSTOP)); err != nil {
		t.Fatal(err)
	}
	a = w.emperor("a")
	w.until(func() bool { _, err := record.StartTime(pid); return err != nil })
	if code := a.end(syscall.SIGTERM); code != 0 {
		t.Errorf("ended with %d", code)
	}
}

func TestOne(t *testing.T) {
	w := newWorld(t)
	p := w.run("--one", w.vassal("site.ini"))
	w.until(func() bool {
		found, err := filepath.Glob("/run/liege-one-*/vassals/v-site/gen-1.json")
		return err == nil && len(found) > 0
	})
	if code := p.end(syscall.SIGINT); code != 0 {
		t.Errorf("ended with %d: %s", code, &p.out)
	}
	bad := filepath.Join(w.dir, "bad.ini")
	write(t, bad, "[vassal]\nuid = no-such-user\nhttp-socket = 127.0.0.1:0\ncheck-static = "+w.dir+"/www\n")
	p = w.run("--one", bad)
	if code := p.code(); code != exitConfig || !strings.Contains(p.out.String(), `no user "no-such-user"`) {
		t.Errorf("a wrong file: %d %s", code, &p.out)
	}
	p = w.run("--one", filepath.Join(w.dir, "none.ini"))
	if code := p.code(); code != exitNoFile {
		t.Errorf("a missing file: %d %s", code, &p.out)
	}
}

func TestNotRoot(t *testing.T) {
	w := newWorld(t)
	cmd := exec.Command(w.bin, w.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	want := "liege: emperor: needs root: it makes namespaces and cgroups\nhint: liege serve FILE\n"
	if cmd.ProcessState.ExitCode() != exitNoPerm || string(out) != want {
		t.Errorf("%v %s", err, out)
	}
}

// The Emperor keeps root for long: no code that speaks HTTP or TLS is in it
// (docs/architecture.md).
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, d := range deps {
		if d == "net/http" || d == "crypto/tls" || d == "liege/serve" || strings.HasPrefix(d, "liege/serve/") {
			t.Errorf("reaches %s", d)
		}
	}
	if !slices.Contains(deps, "liege/sandbox") {
		t.Error("the list is not that of this program")
	}
}
