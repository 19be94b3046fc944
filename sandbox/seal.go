package sandbox

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"
)

// originEnv carries the path of the program over Seal's exec.
const originEnv = "LIEGE_SEALED_FROM"

// Seal executes this program once more, from a sealed copy in memory, so that
// libcontainer need not protect /proc/self/exe at every start (KERNEL 47):
// measured, 22 ms of CPU time for a start and end instead of 34.
// Call it after Init, before anything is opened; in the second run it returns
// at once. An error is not fatal: starts are just slower.
//
// In a sealed process os.Executable names no file: use Executable.
func Seal() error {
	if exeseal.IsSelfExeCloned() {
		// Else ps shows the number of a descriptor. This is the name of the
		// first thread, whichever this one is; prctl would set this one's.
		return os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Getenv(originEnv))), 0)
	}
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	clone, err := exeseal.CloneBinary(f, st.Size(), "liege-emperor", os.TempDir())
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer clone.Close()
	env := append(os.Environ(), originEnv+"="+path)
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", clone.Fd()), os.Args, env)
	return fmt.Errorf("seal: exec: %w", err)
}

// Executable is os.Executable, of the file that a sealed process was made from.
func Executable() (string, error) {
	if path := os.Getenv(originEnv); path != "" && exeseal.IsSelfExeCloned() {
		return path, nil
	}
	return os.Executable()
}
