package resolve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSwapped: what a tenant puts in the place of a file or directory that root
// is about to look at is neither opened nor waited for.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	fifo, venv := filepath.Join(dir, "fifo"), filepath.Join(dir, "pyvenv.cfg")
	if err := errors.Join(unix.Mkfifo(fifo, 0o666), os.Symlink("/dev/null", venv)); err != nil {
		t.Fatal(err)
	}
	tree := foreignTree{dir}
	for what, look := range map[string]func() error{
		"a FIFO":          func() error { _, err := OS{}.ReadFile(fifo); return err },
		"a device":        func() error { _, err := OS{}.ReadFile(venv); return err },
		"in a tree":       func() error { _, err := tree.ReadFile("/fifo"); return err },
		"in place of one": func() error { _, err := (&foreignTree{fifo}).Lstat("/x"); return err },
		"a directory": func() error {
			if got := (OS{}).List(fifo, 10); got != nil {
				t.Errorf("listed: %q", got)
			}
			return unix.ENOTDIR
		},
	} {
		done := make(chan error, 1)
		go func() { done <- look() }()
		select {
		case err := <-done:
			// Said of what was not opened: an opened one was "invalid".
			if !errors.Is(err, unix.ENOTDIR) && (!errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), ", not a regular file")) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: still waiting", what)
		}
	}
}
