package stage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// The phases come in their order, whatever that of the hooks, each with its
// rights; inside a phase the order is that of the plan.
func TestPhases(t *testing.T) {
	testenv.Leaks(t)
	p := newPlan(t, `echo core $(id -u) "$SET"`)
	who := func(s string) string { return "echo " + s + ` $(id -u) ${SET:--} $(umask)` }
	p.Hooks = []vassal.Hook{
		hook(vassal.AsUser, 9, "exec", who("as-user")),
		hook(vassal.AsUser, 9, "callint", "umask 7"),
		hook(vassal.AsUser, 9, "exec", who("as-user")),
		hook(vassal.AsRoot, 8, "exec", who("as-root")),
		hook(vassal.PostJail, 7, "callint", "umask 63"),
		hook(vassal.PostJail, 7, "exec", who("post-jail")),
		hook(vassal.InJail, 6, "putenv", "SET=in-jail"),
		hook(vassal.InJail, 5, "exec", who("in-jail-1")),
		hook(vassal.InJail, 5, "safeexec", "false"),
		hook(vassal.InJail, 5, "call", "chdir /nowhere"),
		hook(vassal.InJail, 4, "print", "in-jail-2"),
	}
	r := start(t, p, launch{})
	if r.failure != nil || r.err != nil {
		t.Fatalf("%v, %v\n%s", r.failure, r.err, r.out)
	}
	diff(t, `in-jail-1 0 - 0022
liege: /etc/vassals/shop.ini:5: hook in-jail: hook-in-jail = safeexec:false: exit status 1; it does not matter
liege: /etc/vassals/shop.ini:5: hook in-jail: hook-in-jail = call:chdir /nowhere: no such file or directory; it does not matter
in-jail-2
post-jail 0 - 0077
as-root 0 - 0077
as-user 65534 in-jail 0027
as-user 65534 in-jail 0007
core 65534 in-jail
`, r.out)
}

// A hook of every phase that fails names the phase; those after it do not run.
func TestPhaseFailures(t *testing.T) {
	testenv.Leaks(t)
	all := []vassal.Phase{vassal.InJail, vassal.PostJail, vassal.AsRoot, vassal.AsUser}
	for i, bad := range all {
		p := newPlan(t, "echo core")
		for _, phase := range all {
			p.Hooks = append(p.Hooks, hook(phase, 3, "print", string(phase)))
		}
		p.Hooks = append(p.Hooks, hook(bad, 7, "exit", "3"))
		r := start(t, p, launch{})
		want := stage.Failure{Step: stage.HookStep(bad), At: vassal.Origin{File: "/etc/vassals/shop.ini", Line: 7},
			What: "hook-" + string(bad) + " = exit:3", Msg: "ends the start, as it says: status 3"}
		if r.failure == nil || *r.failure != want {
			t.Errorf("got %+v, want %+v", r.failure, want)
		}
		if got := strings.Count(r.out, "\n"); got != i+1 {
			t.Errorf("%s: output %q", bad, r.out)
		}
	}
}

// hook-daemons = keep: what hooks leave lives on beside the core.
func TestKeepDaemons(t *testing.T) {
	testenv.Leaks(t)
	for _, phase := range []vassal.Phase{vassal.AsRoot, vassal.AsUser} {
		p := addDaemon(newPlan(t, leftScript(t, phase)), phase)
		p.KeepDaemons = true
		if r := start(t, p, launch{}); r.failure != nil || r.out != "lives\n" {
			t.Errorf("%s: %v, %q", phase, r.failure, r.out)
		}
	}
}

// A hook whose Emperor is gone is killed and the start ends: whether it is a
// command or waits by itself.
func TestOrphan(t *testing.T) {
	testenv.Leaks(t)
	for _, h := range []vassal.Hook{
		hook(vassal.AsRoot, 3, "exec", "echo begun; exec sleep 600"),
		hook(vassal.AsRoot, 3, "wait_for_fs", "/nowhere"),
		hook(vassal.AsUser, 3, "exec", "exec sleep 600"),
	} {
		p := newPlan(t, "echo core")
		p.HookTime = 300
		p.Hooks = []vassal.Hook{h}
		r := start(t, p, launch{orphan: true})
		if r.err == nil || strings.Contains(r.out, "core") || !strings.Contains(r.out, "the Emperor is gone") {
			t.Errorf("%s: %v, %q", h.Arg, r.err, r.out)
		}
	}
}

// spinningfifo waits for who reads, and for nobody for longer than it may.
func TestSpinningFIFO(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	p := newPlan(t, "cat /mnt/got")
	p.Hooks = []vassal.Hook{
		hook(vassal.AsRoot, 2, "mount", "tmpfs tmpfs /mnt rw mode=755"),
		hook(vassal.AsRoot, 3, "exec", "mkfifo /mnt/fifo; (sleep 0.2; cat </mnt/fifo >/mnt/got) >/dev/null 2>&1 &"),
		hook(vassal.AsRoot, 4, "spinningfifo", "/mnt/fifo hello"),
		hook(vassal.AsRoot, 5, "exec", "while ! [ -s /mnt/got ]; do sleep 0.02; done"),
	}
	if r := start(t, p, launch{}); r.failure != nil || r.out != "hello" {
		t.Errorf("%v, %q", r.failure, r.out)
	}
	p = newPlan(t, "true")
	p.HookTime = 3
	p.Hooks = []vassal.Hook{
		hook(vassal.AsRoot, 2, "mount", "tmpfs tmpfs /mnt rw mode=755"),
		hook(vassal.AsRoot, 3, "exec", "mkfifo /mnt/fifo"),
		hook(vassal.AsRoot, 4, "writefifo", "/mnt/fifo nobody reads"),
		hook(vassal.AsRoot, 5, "spinningfifo", "/mnt/fifo hello"),
	}
	if r := start(t, p, launch{}); r.failure == nil || r.failure.Msg != "nobody reads: it took longer than 3 s" {
		t.Errorf("%v, %q", r.failure, r.out)
	}
}
