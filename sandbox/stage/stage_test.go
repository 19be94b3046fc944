package stage_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/vassal"
)

// binary builds the real liege-stage, static and with its constructor, where
// any user can execute it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stage")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "liege-stage")
	cmd := exec.Command("go", "build", "-o", out, "-ldflags", "-linkmode external -extldflags -static", "liege/cmd/liege-stage")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build of liege-stage: %w\n%s", err, b)
	}
	return out, nil
})

// envWithout makes the test binary a stage that leaves out the named steps.
const (
	envWithout = "STAGE_TEST_WITHOUT"
	envBinary  = "STAGE_TEST_BINARY"
)

func init() { runtime.LockOSThread() } // for a stage in TestMain: the first thread

func TestMain(m *testing.M) {
	if without := os.Getenv(envWithout); without != "" {
		exe := os.Getenv(envBinary)
		os.Clearenv()
		os.Exit(stage.MainWithout(os.Args, exe, without))
	}
	code := m.Run()
	if bin, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

func stageBinary(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// nobody's ids, with groups that do not come in order.
const uid, gid = 65534, 65533

func newPlan(t *testing.T, script string) *stage.Plan {
	t.Helper()
	filter, err := seccomp.Default()
	if err != nil {
		t.Fatal(err)
	}
	return &stage.Plan{
		Name: "shop", HookTime: 10, OOMScore: 300, Umask: 0o027,
		UID: uid, GID: gid, Groups: []int{4242, 1717},
		Seccomp: filter,
		Exec:    "/bin/sh", Args: []string{"liege-core shop", "-c", script},
		Env: []string{"PATH=/usr/bin:/bin", "APP=1"}, HookEnv: []string{"PATH=/usr/bin:/bin", "HOOK=1"},
		Dir: "/usr",
	}
}

func hook(phase vassal.Phase, line int, action, arg string) vassal.Hook {
	return vassal.Hook{Phase: phase, Action: action, Arg: arg, At: vassal.Origin{File: "/etc/vassals/shop.ini", Line: line}}
}

// result is what came of a start.
type result struct {
	out     string // of everything: the log
	failure *stage.Failure
	err     error // of the process
}

// launch is how a test starts a stage.
type launch struct {
	without   string // a step to leave out
	listeners int
	mounts    []*os.File
	noPIDNS   bool
	// unprivileged starts it as the tenant's user, which gets no further than
	// the first drop.
	unprivileged bool
	tamper       func([]byte) []byte // of the plan's bytes
	orphan       bool                // the Emperor ends when the stage runs
}

func start(t *testing.T, p *stage.Plan, l launch) result {
	t.Helper()
	bin := stageBinary(t)
	if !l.noPIDNS { // a proc of the new namespace, as the sandbox has
		p.Hooks = append([]vassal.Hook{hook(vassal.AsRoot, 1, "mount", "proc proc /proc nosuid,nodev,noexec")}, p.Hooks...)
	}
	p.Files = stage.Donated{Listeners: l.listeners, Mounts: len(l.mounts)}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if l.tamper != nil {
		b = l.tamper(b)
	}
	plan := must(stage.Seal("plan", b))
	app := must(stage.Seal("app", []byte("{}")))
	control, core := socketpair(t)
	status, inside := socketpair(t)
	files := []*os.File{}
	for range l.listeners {
		a, b := socketpair(t)
		defer a.Close()
		files = append(files, b)
	}
	files = append(append(files, core, app, plan, inside), l.mounts...)
	cmd := exec.Command(bin)
	cmd.Env = []string{"LD_PRELOAD=/nowhere.so"} // the stage drops what it is given
	if l.without != "" {
		cmd = exec.Command(testBinary(t))
		cmd.Env = []string{envWithout + "=" + l.without, envBinary + "=" + bin}
	}
	cmd.Args = stage.Argv(p.Files)
	cmd.ExtraFiles = files
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS, Unshareflags: syscall.CLONE_NEWNS}
	if l.unprivileged {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	if !l.noPIDNS {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	}
	timer := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if l.orphan {
		status.Close()
	}
	r := result{err: cmd.Run()}
	for _, f := range append(files, control) {
		f.Close()
	}
	buf := make([]byte, stage.MaxFailure+1)
	if n, _ := unix.Read(int(status.Fd()), buf); n > 0 {
		r.failure = stage.ParseFailure(buf[:n], p)
	}
	status.Close()
	r.out = out.String()
	return r
}

// testBinary is a copy of this test's binary that any user can execute.
func testBinary(t *testing.T) string {
	t.Helper()
	dir := filepath.Dir(stageBinary(t))
	copied := filepath.Join(dir, "stage.test")
	if _, err := os.Stat(copied); err == nil {
		return copied
	}
	b, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return copied
}

func socketpair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
