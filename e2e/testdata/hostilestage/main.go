// Command hostilestage is a liege-stage that leaves out what the vassal's name
// says, and nothing if it is "honest". It runs no hooks and attaches nothing.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

func main() {
	runtime.LockOSThread()
	if err := run(); err != nil {
		fmt.Println("hostile stage:", err)
		os.Exit(1)
	}
}

func run() error {
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.NewSectionReader(os.NewFile(uintptr(fd), "plan"), 0, 16<<20))
	if err != nil {
		return err
	}
	p, err := stage.Decode(b)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(*stage.Plan) error
	}{
		{"bounding", bounding}, {"groups", groups}, {"gid", gid}, {"uid", uid}, {"nnp", nnp}, {"filter", filter},
	} {
		if step.name == string(p.Name) || p.Name == "nnp" && step.name == "filter" { // which needs it
			continue
		}
		if err := step.do(p); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if p.Dir != "" {
		if err := os.Chdir(p.Dir); err != nil {
			return err
		}
	}
	return syscall.Exec(p.Exec, p.Args, p.Env)
}

func all(trap, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func bounding(*stage.Plan) error {
	for c := uintptr(0); ; c++ {
		if err := all(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
			if c > unix.CAP_CHECKPOINT_RESTORE {
				return nil
			}
			return err
		}
	}
}

func groups(p *stage.Plan) error { return syscall.Setgroups(slices.Clone(p.Groups)) }
func gid(p *stage.Plan) error    { return syscall.Setresgid(p.GID, p.GID, p.GID) }
func uid(p *stage.Plan) error    { return syscall.Setresuid(p.UID, p.UID, p.UID) }
func nnp(*stage.Plan) error      { return all(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0) }

func filter(p *stage.Plan) error {
	var prog []unix.SockFilter
	for _, f := range p.Seccomp {
		prog = append(prog, unix.SockFilter{Code: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K})
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return errno
	}
	return nil
}
