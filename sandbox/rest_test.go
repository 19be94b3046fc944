package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRest: a vassal of which nothing runs gives back its cgroup and its empty
// private directories, and nothing that was counted; what lies in them stays.
func TestRest(t *testing.T) {
	r := newRig(t)
	v, err := r.m.Vassal("napper")
	if err != nil {
		t.Fatal(err)
	}
	here := func() (dirs int) {
		for _, m := range r.m.trees.mounts {
			if _, err := os.Stat(filepath.Join(m, v.Cgroup())); err == nil {
				dirs++
			}
		}
		if mounted, err := isMount(v.dir()); err == nil && mounted {
			dirs++
		}
		return dirs
	}
	all := here()
	if all != len(r.m.trees.mounts)+1 {
		t.Fatalf("%d cgroups and mounts", all)
	}
	rest := func(left int) {
		t.Helper()
		if err := v.Rest(); err != nil {
			t.Fatal(err)
		}
		if got := here(); got != left {
			t.Errorf("%d cgroups and mounts are left, want %d", got, left)
		}
	}
	b := r.start(r.spec("napper", 1, "wait"))
	b.awaitOutput("waiting")
	rest(all) // it lives
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait()
	before := r.cpu(v)
	rest(0)
	if got := r.cpu(v); got != before || got == 0 {
		t.Errorf("%d µs of CPU time are counted, before it rested %d", got, before)
	}
	rest(0) // once more

	b = r.start(r.spec("napper", 2, "write", "/tmp/kept"))
	b.wait()
	if got := r.cpu(v); got <= before {
		t.Errorf("%d µs of CPU time are counted after it ran again, before %d", got, before)
	}
	rest(all)
	text, err := os.ReadFile(filepath.Join(v.private("tmp"), "kept"))
	if err != nil || string(text) != "x" {
		t.Errorf("what it wrote: %q, %v", text, err)
	}
	if err := os.Remove(filepath.Join(v.private("tmp"), "kept")); err != nil {
		t.Fatal(err)
	}
	rest(0)
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

func (r *rig) cpu(v *Vassal) int64 {
	r.t.Helper()
	u, err := v.Usage()
	if err != nil {
		r.t.Fatal(err)
	}
	return u.CPUUsec
}
