// Package asuser does a few things to files as somebody else: it opens, reads,
// stats and globs paths, binds unix sockets and opens log files, to write and to read, with the ids
// of a vassal's user, so that the Emperor, which is root, never touches a path
// where a tenant can write, and whatever the host denies that user stays
// denied (CONTRACT 4, 6, 10, 11; KERNEL 18, 26).
//
//	s, err := asuser.Start(ctx, asuser.Who{UID: 1004, GID: 33, Groups: []int{33}})
//	defer s.Close()
//	dir, err := s.Open("/home/shop/app")   // an O_PATH descriptor
//
// The work is done by a short-lived child: the caller's own executable, run
// anew with a private argv[0]. A main that uses this package therefore calls
// Main first of all. The child has the user's ids, no capability, an empty
// bounding set, no_new_privs, no environment, one descriptor besides
// /dev/null, 64 MiB of memory and 2 s of CPU time; each call may take 2 s.
//
// The child belongs to the user, who may be able to control it: every answer
// is a claim. What callers get is checked here as far as it can be (a bound, a
// type, a descriptor of the kind that was asked for) and is never more than
// what that user could have made himself.
package asuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser/become"
	"liege/selinux"
)

// Limits of a session.
const (
	CallTime  = 2 * time.Second // one call
	MaxMemory = 64 << 20        // bytes that the child may take beyond what it starts with
	MaxCPU    = 2               // seconds of CPU time of the child's whole life
	MaxRead   = 1 << 20         // bytes of ReadFile
	MaxGlob   = 4096            // names of one Glob
)

// title is argv[0] of the child: it tells the executable to be one, and shows
// in ps what it is.
const title = "liege-as-user"

// Who is the user that a session acts as.
type Who struct {
	UID, GID int
	Groups   []int // supplementary
	// For is the vassal whose file is the operator's, empty for a user's file: what
	// hangs for it is its own, and not that of all whom the operator gave this uid.
	For string
}

// ErrGone is wrapped by the error of a call whose child is dead, hung, or
// broke the protocol. The session is of no further use.
var ErrGone = errors.New("the child that acts as the user gave no answer")

// Session is one child. Its calls are not for several goroutines at once.
type Session struct {
	who  Who
	cmd  *exec.Cmd
	conn *net.UnixConn
	dead error
	done chan struct{} // closed when the child has been waited for
}

// Start starts a child that acts as who. The child ends with ctx or Close.
// Only root can act as somebody else; another caller gets a child of its own
// user, whatever who says, if who is that user, else an error.
func Start(ctx context.Context, who Who) (*Session, error) {
	if euid := os.Geteuid(); euid != 0 && who.UID != euid {
		return nil, fmt.Errorf("act as uid %d: needs root", who.UID)
	}
	if hung.full(who.key()) {
		return nil, errHung(who)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("act as uid %d: socketpair: %w", who.UID, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "as-user"), os.NewFile(uintptr(pair[1]), "as-user")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("act as uid %d: %w", who.UID, err)
	}
	s := &Session{who: who, conn: conn.(*net.UnixConn), done: make(chan struct{})}
	s.cmd = exec.CommandContext(ctx, "/proc/self/exe")
	s.cmd.Args = []string{title}
	s.cmd.Env = []string{}
	s.cmd.Dir = "/"
	s.cmd.ExtraFiles = []*os.File{theirs}
	if err := StartProgram(s.cmd, who, ""); err != nil {
		conn.Close()
		return nil, fmt.Errorf("act as uid %d: %w", who.UID, err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended says nothing that the channel doesn't
		close(s.done)
	}()
	return s, nil
}

// Err returns the error that ended the session (ErrGone), or nil: what asked it
// and takes an error for "there is none" must know.
func (s *Session) Err() error { return s.dead }

// Close ends the child. It waits for it, but not for one that hangs in the
// kernel (a dead NFS server): that one is reaped when it wakes, and with two of
// them Start starts no more for the user.
func (s *Session) Close() error {
	err := s.conn.Close()
	_ = s.cmd.Process.Kill() // an error says that it has ended
	select {
	case <-s.done:
	case <-time.After(CallTime):
		hung.until(s.who.key(), s.done)
		return fmt.Errorf("act as uid %d: pid %d does not die: %w", s.who.UID, s.cmd.Process.Pid, ErrGone)
	}
	return err
}

// StartProgram starts another program for who, as confined as a session's child:
// an empty bounding set, no_new_privs, a session of its own. It is for programs of
// ours, which call become.User first of all: it is in no sandbox, and has root's
// uid and the capabilities to leave it until then.
//
// context is the SELinux context that the program begins in; empty: as the policy
// has it.
func StartProgram(cmd *exec.Cmd, who Who, context string) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if os.Geteuid() == 0 {
		cmd.Env = append(slices.Clip(cmd.Env), become.Entry(who.UID, who.GID, who.Groups))
	}
	return startConfined(cmd, context)
}

// startConfined starts cmd from a thread that has no_new_privs and an empty
// bounding set, which the child inherits. Both are for ever, so the thread
// ends with its goroutine; the process's first thread cannot, and is avoided.
func startConfined(cmd *exec.Cmd, context string) error {
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err = startConfined(cmd, context) // on another thread, since this one is held
			runtime.UnlockOSThread()
			return
		}
		if err = confineThread(); err == nil {
			err = selinux.ThreadExec(context)
		}
		if err == nil {
			err = cmd.Start()
		}
	})
	wg.Wait()
	return err
}

func confineThread() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// Of root's capabilities an exec keeps those that are in the bounding or the
	// inheritable set (capabilities(7)); what is left in the latter gives nothing
	// to whoever is no longer root.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = become.Capabilities, 0
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("inheritable set: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err {
		case nil:
		case unix.EINVAL: // past the last one this kernel knows
			return nil
		default:
			return fmt.Errorf("bounding set: %w", err)
		}
	}
	return nil
}
