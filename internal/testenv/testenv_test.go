package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a testing.TB that keeps what happens to it.
type recorder struct {
	testing.TB
	cleanups []func()
	said     []string
	verdict  string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, a ...any) {
	r.verdict, r.said = "fail", append(r.said, fmt.Sprintf(format, a...))
}
func (r *recorder) Fatalf(format string, a ...any) { r.verdict = "fatal"; panic(r) }
func (r *recorder) Skipf(format string, a ...any)  { r.verdict = "skip"; panic(r) }

func (r *recorder) run(f func()) {
	defer func() {
		if p := recover(); p != nil && p != r {
			panic(p)
		}
	}()
	f()
}

func TestNeed(t *testing.T) {
	for _, tc := range []struct{ have, want string }{
		{"", "skip"}, {"other,no-such", "fatal"}, {"other", "skip"},
	} {
		t.Setenv("TEST_HAVE", tc.have)
		r := &recorder{TB: t}
		r.run(func() { Need(r, "no-such") })
		if r.verdict != tc.want {
			t.Errorf("TEST_HAVE=%q: got %q, want %q", tc.have, r.verdict, tc.want)
		}
	}
}

// Every kind of thing that Leaks looks for is left once, and found.
func TestLeaksFinds(t *testing.T) {
	for _, tc := range []struct {
		kind string
		root bool
		leak func(t *testing.T) (mend func())
	}{
		{"nothing", false, func(*testing.T) func() { return func() {} }},
		{"goroutines", false, func(*testing.T) func() {
			stop := make(chan struct{})
			go func() { <-stop }()
			return func() { close(stop) }
		}},
		{"fd ", false, func(t *testing.T) func() {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		}},
		{"process ", false, func(t *testing.T) func() {
			cmd := exec.Command("sleep", "60")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() { cmd.Process.Kill(); cmd.Wait() }
		}},
		{"mount ", true, func(t *testing.T) func() {
			dir := t.TempDir()
			if err := unix.Mount("none", dir, "tmpfs", 0, "size=4k"); err != nil {
				t.Fatal(err)
			}
			return func() { unix.Unmount(dir, 0) }
		}},
		{"cgroup ", true, func(t *testing.T) func() {
			dir := filepath.Join(unifiedMount(), fmt.Sprintf("liege-t%07d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return func() { os.Remove(dir) }
		}},
	} {
		t.Run(strings.TrimSpace(tc.kind), func(t *testing.T) {
			if tc.root {
				Need(t, Root, CgroupV2)
			}
			checkLeak(t, tc.kind, tc.leak)
		})
	}
}

func checkLeak(t *testing.T, kind string, leak func(*testing.T) func()) {
	before := takeSnapshot(filepath.Join(os.TempDir(), topName(t.Name())))
	// The goroutine of the test before may be about to end.
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		before.stacks = slices.MinFunc([][]string{before.stacks, Goroutines()}, func(a, b []string) int { return len(a) - len(b) })
	}
	mend := leak(t)
	now := takeSnapshot(filepath.Join(os.TempDir(), topName(t.Name())))
	got := strings.Join(before.compare(now), "\n")
	mend()
	if kind == "nothing" {
		if got != "" {
			t.Errorf("nothing was leaked; got %q", got)
		}
		return
	}
	if !strings.Contains(got, kind) {
		t.Errorf("a leaked %s was not found; got %q", kind, got)
	}
}
