package main

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// When a core gives memory back: after a while without requests, if there were
// some before. On a host of thousands of vassals most are at rest.
const (
	restAfter    = 5 * time.Second
	worthTidying = 100
)

// giveBack returns to the system what the heap holds and does not use, and lets
// go of the program's code. The kernel maps a page of it together with its
// neighbours, so that after some load nearly all of it is mapped, of which a core
// at rest runs a fifteenth. The pages stay in memory as long as there is room,
// for this core and all others; but it has no page tables for them any more, and
// is not counted as one of their users.
func giveBack() {
	runtime.GC()         // sync.Pool keeps its buffers through one collection
	debug.FreeOSMemory() // and not through the second
	if from, to := code(); to > from {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // else it stays
	}
}

// code is where this program's code is mapped. Nothing writes to that: what is
// dropped comes back as it was. (Of its data that is not so where a loader has
// relocated it.)
func code() (from, to uintptr) {
	here, _, _, _ := runtime.Caller(0)
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 00400000-00873000 r-xp 00000000 fe:00 1234    /usr/lib/liege/liege-core
		span, rest, _ := strings.Cut(lines.Text(), " ")
		first, end, _ := strings.Cut(span, "-")
		a, err1 := strconv.ParseUint(first, 16, 64)
		b, err2 := strconv.ParseUint(end, 16, 64)
		if err1 != nil || err2 != nil || uint64(here) < a || uint64(here) >= b {
			continue
		}
		if !strings.HasPrefix(rest, "r-xp ") {
			break
		}
		return uintptr(a), uintptr(b)
	}
	return 0, 0
}
