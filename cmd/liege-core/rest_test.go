package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// At rest a core's code and constants are mapped no more than it uses them, and it
// runs all the same.
func TestGiveBack(t *testing.T) {
	here, _, _, _ := runtime.Caller(0)
	all := constant()
	if !slices.ContainsFunc(all, func(m mapping) bool { return m.from <= here && here < m.to }) {
		t.Fatalf("the program's code is not found among %x", all)
	}
	if len(all) < 2 {
		t.Fatalf("its constants are not found beside %x", all)
	}
	had := mapped(t, all)
	giveBack(true)
	if has := mapped(t, all); has > had/2 {
		t.Errorf("%d KB of code and constants are mapped, of %d before", has, had)
	}
}

// A second collection is for what requests have left in pools.
func TestGiveBackCollects(t *testing.T) {
	for loaded, want := range map[bool]uint32{true: 2, false: 1} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		giveBack(loaded)
		runtime.ReadMemStats(&after)
		if got := after.NumForcedGC - before.NumForcedGC; got != want {
			t.Errorf("loaded %v: %d collections, want %d", loaded, got, want)
		}
	}
}

// What has been written to would not come back.
func TestGiveBackKeeps(t *testing.T) {
	page := os.Getpagesize()
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	b, err := unix.Mmap(int(exe.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	}()
	at := mapping{from: uintptr(unsafe.Pointer(&b[0])), to: uintptr(unsafe.Pointer(&b[0])) + uintptr(page)}
	b[0] = 'x'
	if err := unix.Mprotect(b, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(constant(), at) {
		t.Error("a page that was relocated is dropped")
	}
	if giveBack(true); b[0] != 'x' {
		t.Error("what was written is gone")
	}
}

// mapped is how much of these mappings is in memory, in KB (proc_pid_smaps(5)).
func mapped(t *testing.T, all []mapping) (kb int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		_, rest, ok := strings.Cut("\n"+string(text), fmt.Sprintf("\n%08x-%08x ", m.from, m.to))
		if !ok {
			t.Fatalf("no mapping at %x", m.from)
		}
		_, rss, _ := strings.Cut(rest, "\nRss:")
		var n int
		if _, err := fmt.Sscanf(rss, "%d kB", &n); err != nil {
			t.Fatal(err)
		}
		kb += n
	}
	return kb
}
