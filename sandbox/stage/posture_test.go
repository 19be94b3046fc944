package stage_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// posture is a script that shows all that a process was given.
const posture = `
p=$$
while read -r k v; do case $k in
Uid:|Gid:|Groups:|Cap*|NoNewPrivs:|Seccomp:) echo "$k" $v;; esac; done </proc/$p/status
echo env $(tr '\0' '\n' </proc/$p/environ | sort)
echo argv0 $(tr '\0' '\n' </proc/$p/cmdline | head -n 1)
ls -l /proc/$p/fd
echo cwd $(pwd) umask $(umask)
echo oom $(cat /proc/$p/oom_score_adj)
`

const corePosture = `Uid: 65534 65534 65534 65534
Gid: 65533 65533 65533 65533
Groups: 1717 4242
CapInh: 0000000000000000
CapPrm: 0000000000000000
CapEff: 0000000000000000
CapBnd: 0000000000000000
CapAmb: 0000000000000000
NoNewPrivs: 1
Seccomp: 2
env APP=1 PATH=/usr/bin:/bin
argv0 liege-core shop
fd 0 /dev/null
fd 1 pipe
fd 2 pipe
fd 3 socket
fd 4 socket
fd 5 socket
fd 6 /memfd
cwd /usr umask 0027
oom 300
`

func TestCorePosture(t *testing.T) {
	testenv.Leaks(t)
	r := start(t, newPlan(t, posture), launch{listeners: 2})
	if r.failure != nil || r.err != nil {
		t.Fatalf("start: %v, %v\n%s", r.failure, r.err, r.out)
	}
	diff(t, corePosture, fds(r.out))
}

// Every privileged step, left out: the start must fail, or the posture of the
// core must show it. Otherwise TestCorePosture proves nothing.
func TestCorePostureWithoutStep(t *testing.T) {
	for _, c := range []struct {
		step, shows string // a line of the posture, or a failure
	}{
		{"oom score", "oom 0"},
		{"bounding set", `CapBnd: is "`},
		{"groups", "Groups:\n"},
		{"gid", "Gid: 0 0 0 0"},
		{"uid", "Uid: 0 0 0 0"},
		{"no_new_privs", "seccomp: a filter of"},
		{"seccomp", "Seccomp: 0"},
		{"umask", "umask 0022"},
		{"directory", "cwd / "},
	} {
		t.Run(c.step, func(t *testing.T) {
			r := start(t, newPlan(t, posture), launch{listeners: 2, without: c.step})
			got := fds(r.out)
			if r.failure != nil {
				got = r.failure.Error()
			}
			if got == corePosture || !strings.Contains(got, c.shows) {
				t.Errorf("without %q: want %q in\n%s", c.step, c.shows, got)
			}
		})
	}
}

const rootHookPosture = `Uid: 0 0 0 0
Gid: 0 0 0 0
Groups:
CapInh: 0000000000000000
CapBnd: ALL
CapAmb: 0000000000000000
NoNewPrivs: 0
Seccomp: 0
env HOOK=1 PATH=/usr/bin:/bin
argv0 sh
fd 0 /dev/null
fd 1 pipe
fd 2 pipe
cwd / umask 0022
oom 0
`

const userHookPosture = `Uid: 65534 65534 65534 65534
Gid: 65533 65533 65533 65533
Groups: 1717 4242
CapInh: 0000000000000000
CapPrm: 0000000000000000
CapEff: 0000000000000000
CapBnd: 0000000000000000
CapAmb: 0000000000000000
NoNewPrivs: 1
Seccomp: 2
env HOOK=1 PATH=/usr/bin:/bin SET=by-hook
argv0 sh
fd 0 /dev/null
fd 1 pipe
fd 2 pipe
cwd /usr/share umask 0027
oom 300
`

func TestHookPosture(t *testing.T) {
	testenv.Leaks(t)
	p := newPlan(t, "echo core; tr '\\0' '\\n' </proc/$$/environ | grep SET=; pwd")
	p.Dir = ""
	p.Hooks = []vassal.Hook{
		hook(vassal.AsRoot, 2, "exec", posture),
		hook(vassal.AsRoot, 3, "print", "--"),
		hook(vassal.AsUser, 4, "cd", "/usr/share"),
		hook(vassal.AsUser, 5, "putenv", "SET=by-hook"),
		hook(vassal.AsUser, 6, "exec", posture),
	}
	r := start(t, p, launch{listeners: 1})
	if r.failure != nil || r.err != nil {
		t.Fatalf("start: %v, %v\n%s", r.failure, r.err, r.out)
	}
	root, rest, _ := strings.Cut(fds(r.out), "--\n")
	// Which capabilities root has depends on the machine.
	var lines []string
	for line := range strings.Lines(root) {
		switch {
		case strings.HasPrefix(line, "CapPrm:"), strings.HasPrefix(line, "CapEff:"):
			continue
		case strings.HasPrefix(line, "CapBnd:") && !strings.Contains(line, "0000000000000000"):
			line = "CapBnd: ALL\n"
		case strings.HasPrefix(line, "Groups:"), strings.HasPrefix(line, "oom"):
			line = strings.Fields(line)[0]
			line = map[string]string{"Groups:": "Groups:\n", "oom": "oom 0\n"}[line]
		}
		lines = append(lines, line)
	}
	diff(t, rootHookPosture, strings.Join(lines, ""))
	user, core, _ := strings.Cut(rest, "core\n")
	diff(t, userHookPosture, user)
	diff(t, "SET=by-hook\n/usr/share\n", core)
}

// The posture of an as-user hook must show a drop that did not happen.
func TestHookPostureWithoutStep(t *testing.T) {
	for _, step := range []string{"no_new_privs", "bounding set"} {
		p := newPlan(t, "true")
		p.Hooks = []vassal.Hook{hook(vassal.AsUser, 6, "exec", "true")}
		r := start(t, p, launch{without: step})
		if r.failure == nil {
			t.Errorf("without %q a command of the tenant's was run", step)
		}
	}
}

// fdLine is a line of ls -l in a directory of descriptors.
var fdLine = regexp.MustCompile(`(?m)^l\S+ .* (\d+) -> ([^:\s]+).*$`)

func fds(out string) string {
	out = regexp.MustCompile(`(?m)^total .*\n`).ReplaceAllString(out, "")
	return fdLine.ReplaceAllString(out, "fd $1 $2")
}

func diff(t *testing.T, want, got string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
