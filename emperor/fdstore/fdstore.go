// Package fdstore keeps descriptors in systemd while no Emperor runs
// (sd_notify(3), FDSTORE=1): a killed Emperor's, or those of one that is
// restarted, are given to the next one at its start (sd_listen_fds(3)).
//
//	given := fdstore.Given()        // once
//	store := fdstore.Open(given)    // nil: nobody keeps anything
//	err := store.Put("listen-1a", f)
//	err = store.Remove("listen-1a")
//
// systemd discards all of them when the unit is stopped and not started again.
package fdstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// usualMax is FileDescriptorStoreMax of liege.service. systemd closes what is
// above it and tells only its own log; from version 254 on it says the number in
// $FDSTORE.
const usualMax = 4096

// patience is how long systemd may take to take a message.
const patience = 5 * time.Second

// ErrFull is returned by Put when systemd keeps as many as it may.
var ErrFull = errors.New("systemd keeps no more descriptors of this unit (FileDescriptorStoreMax)")

// first is the descriptor of the first that is given (SD_LISTEN_FDS_START).
const first = 3

// Store is systemd's, for this unit. A nil Store keeps nothing. Its methods may
// be called at the same time.
type Store struct {
	at  string
	max int

	mu   sync.Mutex
	held map[string]bool
}

// A Gift is what systemd gave this process at its start. Each descriptor is taken
// once. Its methods may be called at the same time; a nil Gift is empty.
type Gift struct {
	mu    sync.Mutex
	files map[string]*os.File
}

// Given takes over what systemd gave this process, by name, and takes the
// variables that say so out of the environment. Nothing of it goes on to a
// child. Of two with one name the first is kept.
func Given() *Gift {
	pid, perr := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, nerr := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v) // the names are good ones
	}
	g := &Gift{files: map[string]*os.File{}}
	if perr != nil || nerr != nil || pid != os.Getpid() || n < 1 || n > 1<<20 {
		return g
	}
	for i := range n {
		f := take(first + i)
		if i >= len(names) || g.files[names[i]] != nil {
			f.Close()
			continue
		}
		g.files[names[i]] = f
	}
	return g
}

// take makes an os.File of fd that the runtime does not watch, as it would one in
// non-blocking mode: this process has no use for news of connections.
func take(fd int) *os.File {
	unix.CloseOnExec(fd)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 || unix.SetNonblock(fd, false) != nil {
		return os.NewFile(uintptr(fd), "given by systemd")
	}
	f := os.NewFile(uintptr(fd), "given by systemd")
	_ = unix.SetNonblock(fd, true) // as it was: the mode is that of all who have it open
	return f
}

// Take returns what was given by that name, which is the caller's from then on;
// nil: nothing, or it was taken.
func (g *Gift) Take(name string) *os.File {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[name]
	delete(g.files, name)
	return f
}

// Names lists what has not been taken.
func (g *Gift) Names() []string {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.files))
}

// Open returns the store of this process's unit; nil: systemd did not start it,
// or not so that it may tell it anything. kept names what the store has already.
func Open(kept *Gift) *Store {
	at := os.Getenv("NOTIFY_SOCKET")
	if at == "" || at[0] != '/' && at[0] != '@' {
		return nil
	}
	s := &Store{at: at, max: usualMax, held: map[string]bool{}}
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && n >= 0 {
		s.max = n
	}
	for _, name := range kept.Names() {
		s.held[name] = true
	}
	return s
}

// Put has f kept under name; one that is kept already is not sent again.
func (s *Store) Put(name string, f *os.File) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.held[name]:
		return nil
	case len(s.held) >= s.max:
		return ErrFull
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = s.tell("FDSTORE=1\nFDNAME="+name, unix.UnixRights(int(fd))) }); err != nil || sent != nil {
		return fmt.Errorf("to be kept by systemd: %w", errors.Join(err, sent))
	}
	s.held[name] = true
	return nil
}

// Remove has systemd close what it keeps under name; it need not keep anything.
func (s *Store) Remove(name string) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held[name] {
		return nil
	}
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME="+name, nil); err != nil {
		return fmt.Errorf("kept by systemd: %w", err)
	}
	delete(s.held, name)
	return nil
}

// Has reports whether systemd keeps something under name.
func (s *Store) Has(name string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[name]
}

// tell sends one message (sd_pid_notify_with_fds(3)).
func (s *Store) tell(text string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	return unix.Sendmsg(fd, []byte(text), rights, &unix.SockaddrUnix{Name: s.at}, unix.MSG_NOSIGNAL)
}
