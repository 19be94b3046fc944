package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// At rest a core's code is mapped no more than it runs, and runs all the same.
func TestGiveBack(t *testing.T) {
	from, to := code()
	if to <= from {
		t.Fatal("the program's code is not found")
	}
	had := mapped(t, from)
	giveBack()
	if has := mapped(t, from); has > had/2 {
		t.Errorf("%d KB of the code are mapped, of %d before", has, had)
	}
}

// mapped is how much of the mapping that begins at from is, in KB (proc(5), smaps).
func mapped(t *testing.T, from uintptr) (kb int) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), fmt.Sprintf("%08x-", from)) {
			found = true
		}
		if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &kb); found && err == nil {
			return kb
		}
	}
	t.Fatal("no such mapping")
	return 0
}
