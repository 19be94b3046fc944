package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
)

// TestEnds: a machine that does not come to its end is an error that says what
// happened, and nothing of it stays.
func TestEnds(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Parallel()
	w := newWork(t)
	whole := buildMicro(t, w)
	init := File{Name: "init", From: filepath.Join(w.Dir, "init")}
	dirs := []File{{Name: "proc"}, {Name: "sys"}, {Name: "dev"}, {Name: "tmp"}}
	for _, tc := range []struct {
		name  string
		files []File // nil: the whole initramfs
		limit time.Duration
		want  string
	}{
		{"panic", dirs, time.Minute, "the guest's kernel panicked - not syncing: VFS: Unable to mount root fs"},
		{"early", []File{init}, time.Minute, "the guest powered off before it came up"},
		{"no tests", append(dirs, init), time.Minute, "the guest powered off while its tests ran"},
		{"slow", nil, 300 * time.Millisecond, "the machine was ended after 300ms, and had not come up"},
		{"no kernel", nil, time.Minute, "qemu: exit status 1: qemu"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := Machine{System: whole, Limit: tc.limit}
			if tc.files != nil {
				m.Initrd = filepath.Join(w.Dir, "part")
				if err := Initramfs(m.Initrd, tc.files); err != nil {
					t.Fatal(err)
				}
			}
			if tc.name == "no kernel" {
				m.Kernel = filepath.Join(w.Dir, "none")
			}
			_, err := m.Run(t.Context(), w)
			end, is := errors.AsType[*EndError](err)
			if !is || !strings.HasPrefix(end.How, tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	if left, err := filepath.Glob(filepath.Join(w.Dir, "boot-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestListen(t *testing.T) {
	var lines []string
	m := Machine{Line: func(s string) { lines = append(lines, s) }}
	for _, tc := range []struct {
		said string
		want report
		show string
	}{
		{"", report{}, ""},
		{"liege-vm: up\nhello\r\n\n", report{up: true}, "hello"},
		{"liege-vm: up\nliege-vm: exit 3\n", report{up: true, done: true, status: 3}, ""},
		{"liege-vm: up\nliege-vm: exit 0", report{up: true, done: true}, ""},
		{"liege-vm: up\nliege-vm: exit \n", report{up: true}, ""},
		{"cut off", report{}, "cut off"},
	} {
		lines = nil
		if got := m.listen(strings.NewReader(tc.said)); got != tc.want {
			t.Errorf("%q: %+v, want %+v", tc.said, got, tc.want)
		}
		if got := strings.Join(lines, "|"); got != tc.show {
			t.Errorf("%q: shows %q, want %q", tc.said, got, tc.show)
		}
	}
}

// TestWorkAbandoned: the next run removes what a killed one left, and leaves
// alone what another one works in.
func TestWorkAbandoned(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	alive := newWork(t)
	dead := filepath.Join(alive.cache, "run-1")
	if err := errors.Join(os.Mkdir(dead, 0o755), os.WriteFile(filepath.Join(dead, "disk.img"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	newWork(t)
	if _, err := os.Stat(dead); err == nil {
		t.Error("what was abandoned is left")
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Errorf("what is in use is gone: %v", err)
	}
}

// TestBaseInterrupted: Debian that was not unpacked whole is not taken for one.
func TestBaseInterrupted(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	w := newWork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if base, err := w.Base(ctx, t.Logf); err == nil {
		t.Fatalf("%s was unpacked in two seconds", base)
	}
	if left, err := filepath.Glob(filepath.Join(w.cache, "base-*")); err != nil || len(left) > 0 {
		t.Errorf("in the cache: %v, %v", left, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), w.cache) {
		t.Errorf("mounts are left below %s: %v", w.cache, err)
	}
}
