package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/sandbox/stage"
	"liege/vassal"
)

// hostPhases are those before the root is entered, of a start.
func hostPhases() (out []vassal.Phase) {
	for _, p := range vassal.Phases() {
		if p == vassal.OnDemand || p == vassal.OnConfig { // of a sleeper
			continue
		}
		if place := p.Place(); place == vassal.AtEmperor || place == vassal.AtHost {
			out = append(out, p)
		}
	}
	return out
}

func hookAt(phase vassal.Phase, line int, action, arg string) vassal.Hook {
	return vassal.Hook{Phase: phase, Action: action, Arg: arg, At: vassal.Origin{File: "/etc/vassals/h.ini", Line: line}}
}

// hookPosture prints what a hook's command is given. Where it has a pid
// namespace of its own and the host's /proc, only "self" leads to it.
const hookPosture = `grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | sed 's/CapBnd:.*[1-9a-f]..*/CapBnd: some/' | tr -s '\t' ' ' | tr '\n' ' '
echo $(cat /proc/self/environ | tr '\0' '\n' | grep -v -e ^HOST_ -e ^PWD= | sort)
n() { [ "$(readlink /proc/self/ns/$1)" = "$2" ] && echo -n "host's $1, " || echo -n "own $1, "; }
n mnt "$HOST_mnt"; n pid "$HOST_pid"; n net "$HOST_net"; n uts "$HOST_uts"
echo fds $(ls /proc/self/fd) in $(pwd) umask $(umask) sees $( [ -e "$MARK" ] && echo the host)`

// Every phase before the root is entered, with its posture; all of them before
// those inside.
func TestHostHookPosture(t *testing.T) {
	r := realStage(t)
	mark := filepath.Join(r.dir, "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := r.realSpec("posture", "echo core")
	spec.Plan.HookEnv = append(spec.Plan.HookEnv, "MARK="+mark)
	for _, n := range []string{"mnt", "pid", "net", "uts"} {
		is, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		spec.Plan.HookEnv = append(spec.Plan.HookEnv, "HOST_"+n+"="+is)
	}
	for _, p := range hostPhases() {
		spec.HostHooks = append(spec.HostHooks, hookAt(p, 3, "print", string(p)), hookAt(p, 4, "exec", hookPosture))
	}
	spec.Plan.Hooks = []vassal.Hook{hookAt(vassal.InJail, 5, "print", "in-jail"), hookAt(vassal.InJail, 6, "exec", hookPosture)}
	b := r.start(spec)
	b.wait()
	got := b.output()
	for name, what := range map[string]string{r.dir: "RUN", b.cgroup: "CGROUP"} {
		got = strings.ReplaceAll(got, name, what)
	}
	got = regexp.MustCompile(`UWSGI_VASSAL_PID=\d+`).ReplaceAllString(got, "UWSGI_VASSAL_PID=N")
	const (
		root = "Uid: 0 0 0 0 CapBnd: some NoNewPrivs: 0 Seccomp: 0 "
		out  = "host's mnt, host's pid, host's net, host's uts, fds 0 1 2 3 in / umask 0022 sees the host\n" // 3: that of ls
		in   = "own mnt, own pid, own net, own uts, fds 0 1 2 3 in / umask 0022 sees the host\n"
		jail = "own mnt, own pid, own net, own uts, fds 0 1 2 3 in / umask 0022 sees\n"
	)
	const path, at = "PATH=/usr/bin", "LIEGE_ROOT=RUN/sandbox/root/posture-g1 "
	want := "as-emperor-before-vassal\n" + root + "MARK=RUN/mark " + path + "\n" + out +
		"as-emperor\n" + root + "LIEGE_CGROUP=CGROUP " + at + "MARK=RUN/mark " + path + " UWSGI_VASSAL_PID=N\n" + out
	for _, p := range []string{"as-vassal-before-drop", "as-vassal", "asap", "pre-jail"} {
		want += p + "\n" + root + at + "MARK=RUN/mark " + path + "\n" + in
	}
	want += "in-jail\n" + root + "MARK=RUN/mark " + path + "\n" + jail + "core\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// as-emperor hooks have the child's pid, which waits for them, and its
// namespaces; what asap and pre-jail mount is the sandbox's alone.
func TestHostHooksReach(t *testing.T) {
	r := realStage(t)
	spec := r.realSpec("reach", "cat /mnt/file; ls /mnt/x; cat /proc/self/mountinfo | grep -c LIEGE-TEST")
	spec.Files = append(spec.Files, GenFile{Path: "/mnt/x", Mode: 0o644})
	where := filepath.Join(r.dir, "where")
	if err := os.Mkdir(where, 0o755); err != nil {
		t.Fatal(err)
	}
	spec.HostHooks = []vassal.Hook{
		hookAt(vassal.AsEmperor, 3, "exec", `nsenter -t $UWSGI_VASSAL_PID -n ip link show lo | grep -c LOOPBACK; tr '\0' ' ' </proc/$UWSGI_VASSAL_PID/cmdline; echo; stat -c %F $LIEGE_ROOT/mnt/x`),
		hookAt(vassal.PreJail, 4, "exec", `mount -t tmpfs LIEGE-TEST $LIEGE_ROOT/mnt; echo from pre-jail >$LIEGE_ROOT/mnt/file`),
		hookAt(vassal.PreJail, 5, "mount", "tmpfs LIEGE-TEST "+where),
	}
	b := r.start(spec)
	b.wait()
	want := "1\n" + self(t) + " init \nregular empty file\nfrom pre-jail\nls: cannot access '/mnt/x': No such file or directory\n1\n"
	got := regexp.MustCompile(`(?m)^\S+ init $`).ReplaceAllString(b.output(), self(t)+" init ")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if mounted, err := isMount(where); mounted || err != nil {
		t.Errorf("the mount of a pre-jail hook is the host's: %v", err)
	}
}

// A hook that fails ends the start with its line, step and words, whatever its
// phase, and nothing is left; one of as-emperor is told.
func TestHostHookFailure(t *testing.T) {
	for _, phase := range hostPhases() {
		t.Run(string(phase), func(t *testing.T) {
			r := realStage(t)
			spec := r.realSpec("fails", "echo core")
			spec.HostHooks = []vassal.Hook{
				hookAt(phase, 3, "exec", "setsid sleep 600 >/dev/null 2>&1 & echo no luck; exit 4"),
				hookAt(phase, 4, "write", filepath.Join(r.dir, "nowhere/file")+" x"),
			}
			var told []*stage.Failure
			spec.Told = func(f *stage.Failure) { told = append(told, f) }
			b, err := r.tryStart(t.Context(), r.m, spec)
			want := &stage.Failure{Step: stage.HookStep(phase), At: vassal.Origin{File: "/etc/vassals/h.ini", Line: 3},
				What: "hook-" + string(phase) + " = exec:setsid sleep 600 >/dev/null 2>&1 & echo no luck; exit 4", Msg: "exit status 4", Output: "no luck"}
			if phase.Fatal() {
				f, _ := errors.AsType[*stage.Failure](err)
				if d := cmp.Diff(want, f); d != "" || len(told) > 0 {
					t.Errorf("%v, %v (-want +got):\n%s", err, told, d)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b.wait()
			if len(told) != 2 || cmp.Diff(want, told[0]) != "" || told[1].Errno == 0 || !strings.Contains(b.output(), "core\n") {
				t.Errorf("told %v, log %q", told, b.output())
			}
		})
	}
}

// A hook that hangs is killed when its time is over, and when the start is
// given up; a daemon that it left dies with it.
func TestHostHookHangs(t *testing.T) {
	for _, phase := range []vassal.Phase{vassal.BeforeVassal, vassal.AsEmperor, vassal.PreJail} {
		t.Run(string(phase), func(t *testing.T) {
			r := realStage(t)
			hang := hookAt(phase, 3, "exec", "setsid sleep 600 >/dev/null 2>&1 & echo begun; exec sleep 600")
			spec := r.realSpec("hangs", "echo core")
			spec.HostHooks = []vassal.Hook{hang}
			spec.Plan.HookTime = 1
			spec.Told = func(f *stage.Failure) {
				if f.Msg != "took longer than 1 s and was killed" {
					t.Errorf("told %v", f)
				}
			}
			b, err := r.tryStart(t.Context(), r.m, spec)
			if phase.Fatal() && (err == nil || !strings.Contains(err.Error(), "took longer than 1 s and was killed")) || !phase.Fatal() && err != nil {
				t.Errorf("got %v", err)
			}
			if b != nil {
				b.wait()
			}
			spec = r.realSpec("given-up", "echo core")
			spec.HostHooks, spec.Plan.HookTime = []vassal.Hook{hang}, 300
			ctx, cancel := context.WithCancelCause(t.Context())
			enough := errors.New("enough")
			go func() {
				log := filepath.Join(r.dir, spec.ID+".log")
				for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
					if text, _ := os.ReadFile(log); strings.Contains(string(text), "begun") {
						break
					}
				}
				cancel(enough)
			}()
			if _, err := r.tryStart(ctx, r.m, spec); !errors.Is(err, enough) {
				t.Errorf("given up: %v", err)
			}
		})
	}
}

// A daemon that a hook leaves is gone before the vassal's program runs.
func TestHostHookLeavesDaemon(t *testing.T) {
	for _, phase := range hostPhases() {
		t.Run(string(phase), func(t *testing.T) {
			r := realStage(t)
			pid := filepath.Join(r.dir, "pid")
			spec := r.realSpec("daemon", "echo core")
			spec.HostHooks = []vassal.Hook{
				hookAt(phase, 3, "exec", "setsid sh -c 'echo $$ >"+pid+"; exec sleep 601 >/dev/null 2>&1' & while ! [ -s "+pid+" ]; do :; done"),
			}
			spec.Plan.Hooks = []vassal.Hook{hookAt(vassal.InJail, 4, "exec", "grep -l sleep /proc/[0-9]*/comm; true")}
			b := r.start(spec)
			b.wait()
			if got := b.output(); got != "core\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

func TestHooksOfEmperorAlone(t *testing.T) {
	r := realStage(t)
	out := filepath.Join(r.dir, "out")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	told, err := r.m.RunHooks(t.Context(), HostHooks{ID: "emperor-start", Output: f, Plan: stage.HostPlan{
		HookTime: 5, Proc: "/proc", HookEnv: []string{"PATH=/usr/bin:/bin"},
		Hooks: []vassal.Hook{hookAt(vassal.AsEmperor, 1, "exec", "echo ran"), hookAt(vassal.AsEmperor, 2, "exec", "false")},
	}})
	text, _ := os.ReadFile(out)
	if err != nil || len(told) != 1 || told[0].At.Line != 2 || string(text) != "ran\n" {
		t.Errorf("%v, %v, %q", told, err, text)
	}
}

// What a hook has started dies with the stage that runs the hooks, also where that
// was killed and can end nobody: its cgroup is emptied.
func TestHookStageKilled(t *testing.T) {
	r := realStage(t)
	note := filepath.Join(r.dir, "pid")
	f, err := os.Create(filepath.Join(r.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = r.m.RunHooks(t.Context(), HostHooks{ID: "killed", Output: f, Plan: stage.HostPlan{
		HookTime: 20, Proc: "/proc", HookEnv: []string{"PATH=/usr/bin:/bin"},
		Hooks: []vassal.Hook{hookAt(vassal.AsEmperor, 1, "exec", "setsid sh -c 'echo $$ >"+note+"; exec sleep 602 >/dev/null 2>&1' & while ! [ -s "+note+" ]; do :; done; kill -9 $PPID; sleep 603")},
	}})
	if err == nil {
		t.Error("nobody noticed")
	}
	pid, rerr := os.ReadFile(note)
	if rerr != nil {
		t.Fatalf("the hook did not run: %v, %v", rerr, err)
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("its child lives on: %s", stat)
	}
}
