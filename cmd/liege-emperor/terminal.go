package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// terminal shows the vassals' lines to the person who started the Emperor.
type terminal struct {
	mu  sync.Mutex
	out io.Writer
	one bool // one vassal: no names
}

// line returns what shows a line; nil for a nil terminal.
func (t *terminal) line() func(vassal.Name, string) {
	if t == nil {
		return nil
	}
	return func(name vassal.Name, s string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.one {
			fmt.Fprintln(t.out, s)
			return
		}
		fmt.Fprintf(t.out, "%s | %s\n", name, s)
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
