// Package become lets a program of ours, which root started for a user, take on
// that user's ids by itself, before it does anything else.
//
// The ids must not change between fork and exec, where Go's os/exec would do it
// (SysProcAttr.Credential): the child shares the memory of the Emperor's thread
// there, which waits for the exec (CLONE_VM|CLONE_VFORK). From setuid(2) on, any
// process of that user may stop the child (kill(2): SIGSTOP), and with it the
// thread, and at its next collection of garbage the whole Emperor.
package become

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// variable holds the ids: "UID GID" and the supplementary groups.
const variable = "LIEGE_BECOME"

// maxIDs is the kernel's bound of groups (NGROUPS_MAX), and the two ids.
const maxIDs = 65536 + 2

// Capabilities are what the program needs to have for it: no others.
const Capabilities = 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID

// Entry is the entry for the program's environment that says whom to become.
func Entry(uid, gid int, groups []int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s=%d %d", variable, uid, gid)
	for _, g := range groups {
		fmt.Fprintf(&b, " %d", g)
	}
	return b.String()
}

// User takes on the ids that Entry put into the environment, in every thread,
// with what follows from it: no capability, not dumpable (commit_creds in
// kernel/cred.c). Without an entry it does nothing, but is an error for root:
// who starts the program as root says whom it works for.
func User() error {
	text, found := os.LookupEnv(variable)
	if !found {
		if os.Geteuid() == 0 {
			return errors.New("started as root, and nobody said for whom")
		}
		return nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return err
	}
	words := strings.Fields(text)
	if len(words) < 2 || len(words) > maxIDs {
		return fmt.Errorf("%d ids to become", len(words))
	}
	ids := make([]int, len(words))
	for i, w := range words {
		id, err := strconv.ParseUint(w, 10, 32)
		if err != nil {
			return fmt.Errorf("id to become: %w", err)
		}
		ids[i] = int(id)
	}
	if err := syscall.Setgroups(ids[2:]); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setresgid(ids[1], ids[1], ids[1]); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	if err := syscall.Setresuid(ids[0], ids[0], ids[0]); err != nil {
		return os.NewSyscallError("setresuid", err)
	}
	return dropInheritable()
}

// dropInheritable empties what StartProgram brought the capabilities in. A
// program with cgo can do so for one thread only; in the others they stay, and
// give nothing to whoever is no longer root.
func dropInheritable() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, no := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	switch no {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return os.NewSyscallError("capset", unix.Capset(&header, &none[0]))
	}
	return os.NewSyscallError("capset", no)
}
