package asuser

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/vassal/regular"
)

// Times are the modification times of paths as who sees them; zero for what is
// missing, denied or the kernel's, and for all of them if one does not answer within CallTime.
// It is for questions that come again and again, for which a child would be too
// dear: a thread of this process takes the user's file system ids, without which
// root's rights over files are gone too (setfsuid(2)), and ends.
func Times(who Who, paths []string) []time.Time {
	out := make([]time.Time, len(paths))
	for i, st := range stats(who, paths) {
		if st != nil {
			out[i] = time.Unix(st.Mtim.Unix())
		}
	}
	return out
}

// Looks is Times with more than the time: device, inode, size and change of
// what each path leads to. Empty for what is missing or denied.
func Looks(who Who, paths []string) []string {
	out := make([]string, len(paths))
	for i, st := range stats(who, paths) {
		out[i] = look(st)
	}
	return out
}

// LooksHere is Looks with the rights of the caller, on its thread: it waits for a
// file system that hangs.
func LooksHere(paths []string) []string {
	out := make([]string, len(paths))
	for i, st := range statEach(paths, unix.Stat) {
		out[i] = look(st)
	}
	return out
}

func look(st *unix.Stat_t) string {
	if st == nil {
		return ""
	}
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// stats asks for paths: nil for what is not there. A thread that hangs is left
// behind.
func stats(who Who, paths []string) []*unix.Stat_t {
	if len(paths) == 0 {
		return nil
	}
	key := who.key()
	if who.UID == 0 {
		key = paths[0] // what hangs is one vassal's
	}
	if hung.full(key) {
		return nil
	}
	var out []*unix.Stat_t
	done := make(chan struct{})
	go func() {
		defer close(done)
		out = statAll(who, paths)
	}()
	late := time.NewTimer(CallTime)
	defer late.Stop()
	select {
	case <-done:
		return out
	case <-late.C:
		hung.until(key, done)
		return nil
	}
}

// statAll is for a goroutine of its own: its thread ends with it.
func statAll(who Who, paths []string) []*unix.Stat_t {
	runtime.LockOSThread() // never unlocked
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread() // the first thread cannot end: on another
		got := make(chan []*unix.Stat_t)
		go func() { got <- statAll(who, paths) }()
		return <-got
	}
	if os.Geteuid() == 0 && !takeFileIDs(who) {
		return nil
	}
	return statEach(paths, statOnDisk)
}

func statEach(paths []string, stat func(string, *unix.Stat_t) error) []*unix.Stat_t {
	out := make([]*unix.Stat_t, len(paths))
	for i, p := range paths {
		var st unix.Stat_t
		if stat(p, &st) == nil {
			out[i] = &st
		}
	}
	return out
}

// statOnDisk is stat(2), of no file of the kernel's: a link of a user's may lead to
// what only processes of the host see.
func statOnDisk(path string, st *unix.Stat_t) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := regular.OnDisk(fd); err != nil {
		return err
	}
	return unix.Fstat(fd, st)
}

// takeFileIDs gives this thread who's rights over files.
func takeFileIDs(who Who) bool {
	list := make([]uint32, len(who.Groups)+1) // one more, so that there is a first
	for i, g := range who.Groups {
		list[i] = uint32(g)
	}
	// Raw: package syscall's would change every thread.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(who.Groups)), uintptr(unsafe.Pointer(&list[0])), 0)
	if errno != 0 {
		return false
	}
	for _, id := range []struct {
		set func(int) (int, error)
		to  int
	}{{unix.SetfsgidRetGid, who.GID}, {unix.SetfsuidRetUid, who.UID}} {
		if _, err := id.set(id.to); err != nil {
			return false
		}
		if now, err := id.set(-1); err != nil || now != id.to { // -1 changes nothing and tells what is
			return false
		}
	}
	return true
}
