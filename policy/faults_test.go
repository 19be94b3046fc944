package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestUndone: each step of an Install that fails leaves everything as it was.
func TestUndone(t *testing.T) {
	s := small(t, t.TempDir())
	empty := withBase(t, s)
	fail := func(name string, break_, mend func()) {
		t.Helper()
		before := state(t, s)
		break_()
		err := s.Install(t.Context(), shop(t, 2))
		mend()
		if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Code != vassal.CodeNotInstalled {
			t.Errorf("%s: %v, want not-installed", name, err)
		}
		if diff := cmp.Diff(before, state(t, s)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		valid(t, s)
	}
	write := func(file, text string) func() {
		return func() {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// semodule refuses: the store has file contexts that no module knows.
	users := filepath.Join(s.dir(), "active/users.local")
	for _, before := range []string{"nothing", "the first version"} {
		if before != "nothing" {
			if err := s.Install(t.Context(), shop(t, 1)); err != nil {
				t.Fatal(err)
			}
		}
		fail("semodule, with "+before, write(users, "user nobody_u roles nothing_r level s0 range s0;\n"), func() {
			if err := os.Remove(users); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := s.Remove(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(empty, state(t, s)); diff != "" {
		t.Errorf("at the end: -want +got:\n%s", diff)
	}
}

// TestFullDisk: there is no room for labels, and later there is.
func TestFullDisk(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Semodule)
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "nr_inodes=8k,size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	s := small(t, root)
	before := withBase(t, s)
	fill := s.path("/fill")
	s.at = func(step string) {
		if step != "relabel" {
			return
		}
		if err := os.WriteFile(fill, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		// A tmpfs takes extended attributes from the room for inodes.
		for i := 0; os.WriteFile(fmt.Sprintf("%s%d", fill, i), nil, 0o644) == nil; i++ {
		}
		for i := 0; syscall.Setxattr(fill, fmt.Sprintf("trusted.%d", i), nil, 0) == nil; i++ {
		}
	}
	err := s.Install(t.Context(), shop(t, 1))
	s.at = func(string) {}
	p, ok := errors.AsType[*vassal.Problem](err)
	if !ok || p.Code != vassal.CodeNotUndone && p.Code != vassal.CodeNotInstalled {
		t.Fatalf("with no room: %v", err)
	}
	t.Log(err)
	files, err := filepath.Glob(fill + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Install(t.Context(), Base()); err != nil { // whoever comes next
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(t, s)); diff != "" {
		t.Errorf("with room again: -want +got:\n%s", diff)
	}
	valid(t, s)
	if err := s.Install(t.Context(), shop(t, 1)); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestBusy: while another one changes the policy, who cannot wait changes nothing.
func TestBusy(t *testing.T) {
	s := small(t, t.TempDir())
	before := withBase(t, s)
	for _, file := range []string{filepath.Join(s.stateDir(), "lock"), filepath.Join(s.dir(), "semanage.trans.LOCK")} {
		l, err := lock(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.at = func(step string) {
			if step == "contexts" {
				l.Close() // to undo, it is needed
			}
		}
		time.AfterFunc(200*time.Millisecond, cancel)
		if err := s.Install(ctx, shop(t, 1)); err == nil {
			t.Errorf("%s is held, and it is installed", file)
		}
		cancel()
		l.Close()
		s.at = func(string) {}
		if diff := cmp.Diff(before, state(t, s)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// TestCancelled: whoever gives up at any step has changed nothing.
func TestCancelled(t *testing.T) {
	s := small(t, t.TempDir())
	before := withBase(t, s)
	for _, step := range []string{"journal", "keep", "module", "contexts", "relabel"} {
		ctx, cancel := context.WithCancel(t.Context())
		s.at = func(at string) {
			if at == step {
				cancel()
			}
		}
		if err := s.Install(ctx, shop(t, 1)); err == nil {
			t.Errorf("cancelled at %s, and it is installed", step)
		}
		s.at = func(string) {}
		if diff := cmp.Diff(before, state(t, s)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", step, diff)
		}
	}
}
