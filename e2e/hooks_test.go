package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

// TestHookFailures: whatever the phase, a start that a hook ends is shown with
// the hook's file, line and step; a hook whose failure ends nothing is a
// warning of a vassal that serves.
func TestHookFailures(t *testing.T) {
	r := newRealm(t)
	r.write("app/app.py", hello("served"))
	base := "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n" // lines 2 to 5
	var names []string
	for _, p := range vassal.Phases() {
		place := p.Place()
		if place == vassal.AtCore || place == vassal.OfEmperor || p == vassal.OnDemand || p == vassal.OnConfig { // the last two: TestSleepHooks
			continue
		}
		name := string(p)
		names = append(names, name)
		r.drop(name, base+"exec-as-root = echo as root\nhook-"+name+" = exec:setsid sleep 602 & echo out of luck; exit 5\n")
	}
	for _, name := range names {
		phase := vassal.Phase(name)
		want, code := "backoff", "hook-failed"
		if !phase.Fatal() {
			want = "running"
		}
		r.liege("wait", name, want, "--timeout", patience)
		v := r.status(name)
		p := problem(v, code)
		if p == nil || p.Line != 7 || p.Step != "hook "+name || filepath.Base(p.File) != name+".ini" ||
			!strings.Contains(p.Message, "exit status 5") || !strings.Contains(p.Message, "out of luck") {
			t.Errorf("%s: problems %+v", name, v.Problems)
		} else if (p.Severity == vassal.Error) != phase.Fatal() {
			t.Errorf("%s: it is %s", name, p.Severity)
		}
	}
	r.until("what the hooks left is killed", func() bool { return len(commands(t, "sleep 602")) == 0 })
}

// commands lists the processes whose command line is text.
func commands(t *testing.T, text string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.TrimRight(strings.ReplaceAll(string(line), "\x00", " "), " ") == text {
			if pid, err := strconv.Atoi(e.Name()); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestEmperorKilledInHook: an Emperor that is killed while a hook runs leaves
// no command of it, and the next one starts the vassal.
func TestEmperorKilledInHook(t *testing.T) {
	r := layRealm(t)
	r.write("app/app.py", hello("served"))
	phases := []vassal.Phase{vassal.BeforeVassal, vassal.AsEmperor, vassal.Asap, vassal.PreJail, vassal.InJail, vassal.AsRoot, vassal.AsUser}
	// Each hangs until the file of its phase is there.
	for _, p := range phases {
		flag := "DIR/flags/" + string(p)
		r.drop(string(p), "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nbind = DIR/flags:ro\nready-timeout = 600\nhook-timeout = 600\n"+
			"hook-"+string(p)+" = exec:[ -e "+flag+" ] || { echo begun; exec sleep 603; }\n")
	}
	r.ini = "[emperor]\nstart-concurrency = 16\n"
	r.write("flags/none", "")
	r.start()
	r.until("every hook runs", func() bool { return len(commands(t, "sleep 603")) == len(phases) })
	r.kill()
	r.until("no hook runs", func() bool { return len(commands(t, "sleep 603")) == 0 })
	for _, p := range phases {
		r.write("flags/"+string(p), "")
	}
	r.start()
	for _, p := range phases {
		if v := r.up(string(p)); v.Error != nil {
			t.Errorf("%s: %+v", p, v.Error)
		}
	}
	r.stop()
	if left := commands(t, "sleep 603"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// allHooks is a line for every phase that says its name and who it is, in the
// opposite order, and one form in front of the one that runs before it.
func allHooks(dir string) string {
	var b strings.Builder
	phases := vassal.Phases()
	for i := len(phases) - 1; i >= 0; i-- {
		if phases[i].Place() == vassal.OfEmperor || phases[i] == vassal.OnDemand || phases[i] == vassal.OnConfig { // TestSleepHooks
			continue
		}
		p := string(phases[i])
		if phases[i] == vassal.Touched {
			p += " = " + dir + "/app/flag"
		} else {
			p += " ="
		}
		b.WriteString("hook-" + p + " exec:echo @hook-" + string(phases[i]) + " $(id -u) $LIEGE_WORKER\n")
	}
	for _, p := range []string{"as-emperor", "as-vassal", "asap", "pre-jail", "in-jail", "post-jail", "as-root", "as-user", "pre-app", "post-app", "as-user-atexit"} {
		b.WriteString("call-" + p + " = puts @call-" + p + "\nexec-" + p + " = echo @exec-" + p + "\n")
	}
	return b.String()
}

// marks are the lines of a vassal's log that hooks wrote.
func (r *realm) marks(name string) (out []string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.log, name+".log"))
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if i := strings.Index(line, "@"); i >= 0 {
			out = append(out, strings.TrimSpace(line[i+1:]))
		}
	}
	return out
}

// TestHookOrder: every phase and form at once, in the order of the manual, for
// a start, a worker that is replaced, a touched file, a reload and a stop; and
// explain shows it.
func TestHookOrder(t *testing.T) {
	r := layRealm(t)
	own := filepath.Join(r.dir, "own")
	r.ini = "[emperor]\nhook-emperor-start = exec:echo start >>" + own + "\nhook-emperor-stop = exec:echo stop >>" + own + "\n" +
		"hook-as-emperor-before-vassal = print:@emperor.ini\n"
	r.begin()
	r.write("app/app.py", "import os\ndef application(environ, start_response):\n    start_response('200 OK', [])\n    if environ['PATH_INFO'] == '/die': os._exit(3)\n    return [os.environ.get('EARLY', '').encode()]\n")
	r.drop("all", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 2\nhook-pre-jail = putenv:EARLY=pre-jail\n"+allHooks(r.dir))
	v := r.up("all")
	three := func(p, who string) []string { return []string{"hook-" + p + who, "exec-" + p, "call-" + p} }
	var start []string
	for _, list := range [][]string{
		{"emperor.ini", "hook-as-emperor-before-vassal 0"}, three("as-emperor", " 0"), {"hook-as-vassal-before-drop 0"}, three("as-vassal", " 0"), three("asap", " 0"), three("pre-jail", " 0"),
		three("in-jail", " 0"), three("post-jail", " 0"), three("as-root", " 0"), three("as-user", " 65534"), three("pre-app", " 65534"), three("post-app", " 65534"),
		{"hook-master-start 65534", "hook-as-gateway 65534", "hook-post-fork 65534 1", "hook-post-fork 65534 2",
			"hook-accepting 65534 1", "hook-accepting-once 65534 1", "hook-accepting1 65534 1", "hook-accepting1-once 65534 1",
			"hook-accepting 65534 2", "hook-accepting-once 65534 2"},
	} {
		start = append(start, list...)
	}
	want := start
	r.sees(want)
	if code, got := r.get(v.Listen[0], "/"); code != 200 || got != "pre-jail" {
		t.Errorf("the variable of a pre-jail hook: %d %q", code, got)
	}

	r.write("app/flag", "")
	want = append(want, "hook-touch 65534")
	r.sees(want)

	if resp, err := client(v.Listen[0], false).Get("http://vassal/die"); err == nil {
		resp.Body.Close()
	}
	n := len(want)
	r.until("the hooks of a worker that was replaced", func() bool { return len(r.marks("all")) >= n+2 })
	switch got := r.marks("all")[n:]; got[0] {
	case "hook-post-fork 65534 1":
		want = append(want, "hook-post-fork 65534 1", "hook-accepting 65534 1", "hook-accepting1 65534 1")
	default:
		want = append(want, "hook-post-fork 65534 2", "hook-accepting 65534 2")
	}
	r.sees(want)

	end := append([]string{"hook-emperor-reload 65534"}, three("as-user-atexit", " 65534")...)
	r.liege("reload", "all")
	r.until("the old generation's end", func() bool { return len(r.marks("all")) >= len(want)+len(start)+len(end) })
	both := r.marks("all")[len(want):]
	if got := without(both, end); cmp.Diff(start, got) != "" {
		t.Errorf("a reload (-want +got):\n%s", cmp.Diff(start, got))
	}
	if got := without(both, start); cmp.Diff(end, got) != "" {
		t.Errorf("the end of the old one (-want +got):\n%s", cmp.Diff(end, got))
	}
	n = len(r.marks("all"))
	r.liege("stop", "all")
	r.until("the last end", func() bool { return len(r.marks("all")) >= n+4 })
	end[0] = "hook-emperor-stop 65534"
	if d := cmp.Diff(end, r.marks("all")[n:]); d != "" {
		t.Errorf("a stop (-want +got):\n%s", d)
	}

	r.stop()
	if text, err := os.ReadFile(own); string(text) != "start\nstop\n" {
		t.Errorf("the Emperor's own hooks wrote %q, %v", text, err)
	}

	var shown []string
	text, err := exec.Command(filepath.Join(r.bin, "liege"), "explain", "--config", filepath.Join(r.dir, "emperor.ini"), filepath.Join(r.etc, "all.ini")).CombinedOutput()
	if err != nil {
		t.Fatalf("explain: %v\n%s", err, text)
	}
	for line := range strings.Lines(string(text)) {
		if i := strings.Index(line, "@"); i >= 0 {
			shown = append(shown, strings.Fields(line[i+1:])[0])
		}
	}
	if i := strings.Index(strings.Join(shown, " "), "hook-accepting "); i < 0 || len(shown) != 25+23 || shown[0] != "emperor.ini" || shown[len(shown)-1] != "call-as-user-atexit" {
		t.Errorf("explain shows %d: %v", len(shown), shown)
	}
}

// sees waits until the hooks have written want, and nothing else.
func (r *realm) sees(want []string) {
	r.t.Helper()
	r.until("as many hooks as are wanted", func() bool { return len(r.marks("all")) >= len(want) })
	if d := cmp.Diff(want, r.marks("all")); d != "" {
		r.t.Fatalf("(-want +got):\n%s", d)
	}
}

// without is all but the first of each of drop.
func without(all, drop []string) (out []string) {
	left := slices.Clone(drop)
	for _, s := range all {
		if i := slices.Index(left, s); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}
