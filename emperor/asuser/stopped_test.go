package asuser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
)

const (
	argStops  = "stops-others"
	argStarts = "starts-many"
	stopper   = 64123 // the uid of both: nobody else's
)

// stopOthers stops every process of its user, for ever.
func stopOthers() {
	for {
		_ = syscall.Kill(-1, syscall.SIGSTOP) // but itself (kill(2)); ESRCH: there is none now
	}
}

// startMany starts sessions as the user whose processes are being stopped, and
// lives.
func startMany() int {
	for range 100 {
		s, err := Start(context.Background(), Who{UID: stopper, GID: stopper})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		runtime.GC() // waits for every thread that runs Go
		if err := s.Close(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// TestStopped: a user who stops all processes that are his stops his session's
// child, not who starts it.
func TestStopped(t *testing.T) {
	testenv.Need(t, testenv.Root)
	attacker := exec.Command("/proc/self/exe", argStops)
	attacker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stopper, Gid: stopper}, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is of the thread
	defer runtime.UnlockOSThread()
	if err := attacker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = attacker.Process.Kill()
		_ = attacker.Wait()                                 // killed
		last := exec.Command("/bin/sh", "-c", "kill -9 -1") // what stands still where this fails
		last.SysProcAttr = &syscall.SysProcAttr{Credential: attacker.SysProcAttr.Credential}
		_ = last.Run() // there may be none
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	victim := exec.CommandContext(ctx, "/proc/self/exe", argStarts)
	victim.WaitDelay = 5 * time.Second // a stopped child of its holds the pipe
	victim.Stderr = os.Stderr
	if out, err := victim.Output(); err != nil {
		t.Errorf("it stands still: %v %s", err, out)
	}
}
