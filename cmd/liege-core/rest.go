package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// When a core gives memory back: after a while without requests, if it has just
// started or there were some before. On a host of thousands of vassals most are at rest.
const (
	restAfter    = 5 * time.Second
	worthTidying = 100
)

// giveBack returns to the system what the heap holds and does not use, and lets
// go of the program's code and constants. The kernel maps a page of them together
// with its neighbours, so that after some load nearly all is mapped, of which a core
// at rest uses a fifteenth. The pages stay in memory as long as there is room,
// for this core and all others; but it has no page tables for them any more, and
// is not counted as one of their users.
//
// loaded says that requests have filled pools. After a start alone there is nothing
// in them, and what a second collection needs itself is more than it would find.
func giveBack(loaded bool) {
	if loaded {
		runtime.GC() // sync.Pool keeps its buffers through one collection
	}
	debug.FreeOSMemory() // and not through the second
	for _, m := range constant() {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED) // else it stays
	}
}

// mapping is a part of the address space.
type mapping struct{ from, to uintptr }

// constant is where the parts of this program are mapped that nothing writes to and
// nothing has written to, as a loader does that relocates: what is dropped of them
// comes back as it was. Such have no anonymous pages (proc_pid_smaps(5)).
func constant() (all []mapping) {
	here, _, _, _ := runtime.Caller(0)
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer f.Close()
	var ours string // the file, as a line names it
	byFile := map[string][]mapping{}
	var m mapping
	var file string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 00400000-00873000 r-xp 00000000 fe:00 1234    /usr/lib/liege/liege-core
		// Anonymous:             0 kB
		w := strings.Fields(lines.Text())
		switch {
		case len(w) >= 5 && strings.Contains(w[0], "-"):
			m, file = spanOf(w[0]), ""
			if strings.HasPrefix(w[1], "r-") { // not to be written to
				file = w[3] + " " + w[4] // device and inode
			}
			if m.from <= here && here < m.to {
				ours = file
			}
			byFile[file] = append(byFile[file], m)
		case len(w) == 3 && (w[0] == "Anonymous:" || w[0] == "Swap:") && w[1] != "0":
			byFile[file] = slices.DeleteFunc(byFile[file], func(x mapping) bool { return x == m })
		}
	}
	if ours == "" {
		return nil
	}
	return byFile[ours]
}

func spanOf(s string) (m mapping) {
	if _, err := fmt.Sscanf(s, "%x-%x", &m.from, &m.to); err != nil {
		return mapping{}
	}
	return m
}
