package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// An IDMap makes the owner that files have on disk another one in a mount, and
// what that one makes in it belong to the owner on disk. Every other id is
// nobody there, and writes nothing.
type IDMap struct {
	DiskUID, DiskGID int
	UID, GID         int // of the host, as whom the process runs
}

// open makes a user namespace with the map, which is how the kernel takes one.
// A process has to be in it for a moment: it is stopped before it executes
// anything, and killed.
func (m *IDMap) open() (_ *os.File, err error) {
	// The tracer is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"liege-idmap"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: m.DiskUID, HostID: m.UID, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: m.DiskGID, HostID: m.GID, Size: 1}},
		Ptrace:      true,
	}})
	if err != nil {
		return nil, err
	}
	defer func() {
		kerr := p.Kill()
		_, werr := p.Wait()
		if e := errors.Join(kerr, werr); e != nil && err == nil {
			err = e
		}
	}()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
	if err != nil {
		return nil, err
	}
	return f, nil
}
