package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

const patience = 20 * time.Second

// rig is a Manager with its run directory, gone without a trace at the end.
type rig struct {
	t   *testing.T
	m   *Manager
	dir string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	r := &rig{t: t, dir: t.TempDir()}
	r.m = r.manager(r.dir)
	return r
}

func (r *rig) manager(dir string) *Manager { return r.managerOf(r.config(dir)) }

func (r *rig) managerOf(cfg ManagerConfig) *Manager {
	r.t.Helper()
	m, err := NewManager(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		m.mu.Lock()
		all := []*Vassal{}
		for _, v := range m.vassals {
			all = append(all, v)
		}
		m.mu.Unlock()
		for _, v := range all {
			if err := v.Close(); err != nil {
				r.t.Error(err)
			}
		}
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return m
}

func (r *rig) config(dir string) ManagerConfig {
	return ManagerConfig{RunDir: dir, Stage: self(r.t), Log: slog.New(slog.NewTextHandler(r.t.Output(), nil))}
}

func self(t testing.TB) string {
	t.Helper()
	exe, err := Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// spec asks for a core that does args, as nobody.
func (r *rig) spec(name vassal.Name, gen int, args ...string) Spec {
	return Spec{
		ID: fmt.Sprintf("%s-g%d", name, gen), Name: name, Gen: gen, Hostname: name.Hostname(),
		Root: hostRoot(), Files: hostLinks(),
		Plan: stage.Plan{
			Name: name, UID: 65534, GID: 65534, Groups: []int{}, Args: args,
			Env: []string{"GOMAXPROCS=1"}, Exec: CorePath, Dir: "/", Seccomp: []stage.Filter{{Code: 6, K: unix.SECCOMP_RET_ALLOW}},
		},
	}
}

// hostRoot and hostLinks show enough of the host for a dynamic program.
func hostRoot() []Mount {
	return []Mount{{Source: "/usr", Target: "/usr", Exec: true}}
}

func hostLinks() []GenFile {
	files := []GenFile{{Path: "/etc/passwd", Text: []byte("root:x:0:0::/:/bin/sh\n"), Mode: 0o644}}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + l); err == nil {
			files = append(files, GenFile{Path: "/" + l, Link: to})
		}
	}
	return files
}

// box is a started sandbox with its log.
type box struct {
	*Sandbox
	t   testing.TB
	log string
}

func (r *rig) start(spec Spec) *box {
	r.t.Helper()
	b, err := r.tryStart(r.t.Context(), r.m, spec)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// tryStart starts spec with what it needs, and ends it with the test.
func (r *rig) tryStart(ctx context.Context, m *Manager, spec Spec) (*box, error) {
	own, err := donations(&spec, filepath.Join(r.dir, spec.ID+".log"))
	defer func() {
		for _, f := range own {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	s, err := m.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	b := &box{Sandbox: s, t: r.t, log: filepath.Join(r.dir, spec.ID+".log")}
	r.t.Cleanup(func() {
		if err := b.Kill(); err != nil {
			r.t.Error(err)
		}
		b.wait()
	})
	return b, nil
}

// donations fills in the descriptors that every start needs.
func donations(spec *Spec, log string) (own []*os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	own = append(own, os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control"))
	spec.Control = own[0]
	if spec.App, err = stage.Seal("app", []byte("{}")); err != nil {
		return own, err
	}
	own = append(own, spec.App)
	if spec.Stdout == nil {
		if spec.Stdout, err = os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
			return own, err
		}
		own = append(own, spec.Stdout)
	}
	return own, nil
}

func (b *box) wait() vassal.Exit {
	b.t.Helper()
	select {
	case <-b.Done():
	case <-time.After(patience):
		b.t.Fatalf("%s does not end", b.id)
	}
	return b.Exit()
}

func (b *box) output() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		b.t.Error(err)
	}
	return string(text)
}

// awaitOutput waits until the log holds want. There is no event for that.
func (b *box) awaitOutput(want string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(b.output(), want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("log: got %q, want %q in it", b.output(), want)
		}
	}
}
