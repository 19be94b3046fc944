package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killTimes and killPause bound how long killTree looks for what is left.
const (
	killTimes = 400
	killPause = 5 * time.Millisecond
)

// killTree kills the core pid and all that it has started: programs of CGI,
// exec and daemons have process groups of their own. The core is stopped first,
// so that it starts nothing more; it adopts what those leave behind, so in the
// end all are its children.
func killTree(pid int) {
	_ = syscall.Kill(pid, syscall.SIGSTOP) // ESRCH, here and below: it is gone
	for range killTimes {
		// A stopped core waits for none of them: the dead stay as zombies, and
		// what they had started is in the list once they are.
		left := slices.DeleteFunc(childrenOf(pid), zombie)
		if len(left) == 0 {
			break
		}
		for _, child := range left {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
		time.Sleep(killPause)
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
}

// zombie tells whether process pid with all its threads has died, or is gone:
// its children have another parent then (proc_pid_stat(5)).
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // comm may hold anything
	const state, threads = 0, 17
	return len(f) <= threads || f[threads] == "1" && (f[state] == "Z" || f[state] == "X")
}

// childrenOf are the children of all threads of process pid
// (proc_pid_task(5), children).
func childrenOf(pid int) (out []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // a fixed pattern is never bad
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread is gone
		}
		for word := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}
