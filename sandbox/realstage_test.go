package sandbox

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/vassal"
)

// realStage is a Manager that starts the real liege-stage.
func realStage(t *testing.T) *rig {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	stage := filepath.Join(testenv.Binaries(t), "liege-stage")
	testenv.Leaks(t)
	r := &rig{t: t, dir: t.TempDir()}
	m, err := NewManager(ManagerConfig{RunDir: r.dir, Stage: stage, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.mu.Lock()
		all := []*Vassal{}
		for _, v := range m.vassals {
			all = append(all, v)
		}
		m.mu.Unlock()
		for _, v := range all {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	r.m = m
	return r
}

func (r *rig) realSpec(name vassal.Name, script string, hooks ...vassal.Hook) Spec {
	r.t.Helper()
	spec := r.spec(name, 1)
	filter, err := seccomp.Default()
	if err != nil {
		r.t.Fatal(err)
	}
	p := &spec.Plan
	p.Seccomp, p.HookTime, p.Hooks, p.OOMScore = filter, 10, hooks, 200
	p.Exec, p.Args, p.Dir = "/usr/bin/sh", []string{"liege-core " + string(name), "-c", script}, "/tmp"
	p.Env, p.HookEnv = []string{"PATH=/usr/bin"}, []string{"PATH=/usr/bin"}
	return spec
}

// The hooks of a real start, and what the core has afterwards.
func TestRealStage(t *testing.T) {
	r := realStage(t)
	at := func(phase vassal.Phase, line int, action, arg string) vassal.Hook {
		return vassal.Hook{Phase: phase, Action: action, Arg: arg, At: vassal.Origin{File: "/etc/vassals/real.ini", Line: line}}
	}
	spec := r.realSpec("real", `grep -E '^(Uid|Groups|CapBnd|CapEff|NoNewPrivs|Seccomp):' /proc/1/status; hostname; cat /tmp/by-root /tmp/by-user; cat /proc/[0-9]*/comm | grep -c sleep; echo ready; read -r _ <&0; while :; do sleep 600; done`,
		at(vassal.AsRoot, 2, "writen", "/tmp/by-root root wrote this"),
		at(vassal.AsRoot, 3, "chmod", "/tmp/by-root 644"),
		at(vassal.AsRoot, 4, "exec", "setsid sleep 600 & id -u"),
		at(vassal.AsUser, 5, "exec", "id -u; setsid sleep 600 & echo user wrote this >/tmp/by-user"),
	)
	b := r.start(spec)
	b.awaitOutput("ready\n")
	if err := b.Verify(); err != nil {
		t.Errorf("the check from outside: %v", err)
	}
	want := `0
65534
Uid: 65534 65534 65534 65534
Groups:
CapEff: 0000000000000000
CapBnd: 0000000000000000
NoNewPrivs: 1
Seccomp: 2
real
root wrote this
user wrote this
0
ready
`
	got := regexp.MustCompile(`[ \t]+`).ReplaceAllString(b.output(), " ")
	if d := cmp.Diff(want, strings.ReplaceAll(got, "Groups: \n", "Groups:\n")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A core that cannot be executed is reported after the last privileged step,
// and a hook that fails with its line and its words.
func TestRealStageFailure(t *testing.T) {
	for _, c := range []struct {
		name vassal.Name
		harm func(*stage.Plan)
		want stage.Failure
	}{
		{"noexec", func(p *stage.Plan) { p.Exec = "/etc/passwd" },
			stage.Failure{Step: stage.StepExec, What: "/etc/passwd", Errno: int(unix.EACCES), Msg: "permission denied"}},
		{"badhook", func(p *stage.Plan) {
			p.Hooks = []vassal.Hook{{Phase: vassal.AsUser, Action: "exec", Arg: "echo no luck; exit 4", At: vassal.Origin{File: "/etc/vassals/x.ini", Line: 8}}}
		}, stage.Failure{Step: stage.HookStep(vassal.AsUser), At: vassal.Origin{File: "/etc/vassals/x.ini", Line: 8},
			What: "hook-as-user = exec:echo no luck; exit 4", Msg: "exit status 4", Output: "no luck"}},
	} {
		t.Run(string(c.name), func(t *testing.T) {
			r := realStage(t)
			spec := r.realSpec(c.name, "true")
			c.harm(&spec.Plan)
			b := r.start(spec)
			f := <-b.Failure()
			b.wait()
			if d := cmp.Diff(&c.want, f); d != "" {
				t.Errorf("(-want +got):\n%s\nlog: %s", d, b.output())
			}
		})
	}
}

// A tenant's directory is attached by the real stage, and its links lead
// nowhere in a root hook.
func TestRealStageTenantDirectory(t *testing.T) {
	r := realStage(t)
	dir := filepath.Join(r.dir, "app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	spec := r.realSpec("tenant", "true", vassal.Hook{Phase: vassal.AsRoot, Action: "write", Arg: "/srv/app/link gotcha"})
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	mount := os.NewFile(uintptr(fd), "mount")
	defer mount.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		t.Fatal(err)
	}
	spec.Detached = []*os.File{mount}
	spec.Plan.Attach = []stage.Attach{{Mount: 0, Target: "/srv/app"}}
	b := r.start(spec)
	f := <-b.Failure()
	b.wait()
	if f == nil || f.Step != stage.HookStep(vassal.AsRoot) || !strings.Contains(f.Msg, "symbolic link in a directory that not only root can write") {
		t.Errorf("got %+v; log: %s", f, b.output())
	}
}
