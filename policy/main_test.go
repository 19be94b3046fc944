package policy

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A child of TestKilledAnywhere is this program again: it begins an Install or
// Remove and kills itself at a step.
const killEnv = "LIEGE_TEST_POLICY"

func TestMain(m *testing.M) {
	if os.Getenv(killEnv) == "" {
		os.Exit(m.Run())
	}
	os.Exit(child(os.Args[1], os.Args[2], os.Args[3], os.Args[4]))
}

// child installs the module in file, or removes the app that file is the ID of,
// and is killed at the step at.
func child(root, op, file, at string) int {
	s, err := Open(Config{Root: root})
	if err != nil {
		return 2
	}
	s.at = func(step string) {
		if step == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if op == opRemove {
		err = s.Remove(context.Background(), file)
	} else {
		var m Module
		if m, err = Read(filepath.Clean(file)); err == nil {
			err = s.Install(context.Background(), m)
		}
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}
