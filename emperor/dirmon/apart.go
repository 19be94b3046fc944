package dirmon

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Patience with directories below a wildcard.
const (
	// Overdue is how long a directory below a wildcard may take to be looked at:
	// a home on a dead server, or on a FUSE of its user's, never answers.
	Overdue = 10 * time.Second
	// overdueMore is the same for the ones after the first in one scan: a server
	// that is dead has many homes.
	overdueMore = time.Second
	// maxStuck is how many such directories are waited for; each holds a thread.
	maxStuck = 256
)

// apart is a look at one directory below a wildcard, in a goroutine of its own.
//
// Whoever holds turn owns the Monitor and the scan. The goroutine in Watch
// holds it but while it waits for a look, the look but while it waits for the
// file system. So a look that hangs holds nothing; it is given up, and when it
// wakes in the end it closes what it has open and does nothing else. A call that
// hangs in the kernel cannot be called off: such a goroutine is waited for by
// nobody, and there is at most one for each directory.
type apart struct {
	turn  *sync.Mutex
	done  chan struct{} // closed when it has ended
	given bool          // up; belongs to turn
}

// io does what may wait for the file system. It must touch nothing but its own
// variables; what it opens is closed by a defer of its caller, which runs also
// when this does not return.
func (s *scanner) io(do func()) {
	a := s.apart
	if a == nil {
		do() // the operator's own directory
		return
	}
	a.turn.Unlock()
	do()
	a.turn.Lock()
	if a.given {
		runtime.Goexit()
	}
}

// inApart looks at dir, of source i, by look. If that takes too long, or has
// not ended since an earlier scan, what dir holds stays as it was.
func (s *scanner) inApart(i int, dir string, look func()) {
	m := s.m
	if a := m.stuck[dir]; a != nil {
		select {
		case <-a.done:
			delete(m.stuck, dir)
			m.log.Info("answers again", "dir", clean(dir))
		default:
			s.overdue(i, dir)
			return
		}
	}
	if len(m.stuck) >= maxStuck {
		s.overdue(i, dir)
		return
	}
	a := &apart{turn: &m.turn, done: make(chan struct{})}
	s.apart = a
	go func() {
		defer close(a.done)
		a.turn.Lock()
		defer a.turn.Unlock()
		if !a.given {
			look()
		}
	}()
	m.turn.Unlock()
	late := s.wait(a.done)
	m.turn.Lock()
	s.apart = nil
	if !late {
		return
	}
	select {
	case <-a.done: // just now
		return
	default:
	}
	a.given = true
	m.stuck[dir] = a
	s.hung = true
	s.overdue(i, dir)
}

// wait waits for a look to end, and reports whether it takes too long. The end
// of Watch makes that sooner.
func (s *scanner) wait(done <-chan struct{}) (late bool) {
	longest := s.m.patience
	if s.hung {
		longest = min(longest, overdueMore)
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	case <-s.m.quit:
	}
	if s.hung { // one was enough
		return true
	}
	timer.Reset(min(longest, overdueMore))
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	}
}

// overdue says that dir does not answer. Whose fault that is is not known, so
// what is not known of it yet may be there. The Emperor logs it once.
func (s *scanner) overdue(i int, dir string) {
	s.partial = true
	s.unusable(i, dir, "does not answer: its file system hangs", "umount -l "+clean(dir)+", or mend its server")
}

// errServed is of a directory that inotify is not asked about.
var errServed = errors.New("it is on a network file system or FUSE")

// errDeaf is of inotify that is given up.
var errDeaf = errors.New("inotify hangs")

// hear asks inotify about dir. Should that hang, inotify is given up, and scans
// alone see what changes.
func (m *Monitor) hear(dir string) error {
	w, done := m.hints, make(chan error, 1)
	go func() { done <- w.Add(dir) }()
	timer := time.NewTimer(m.patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	case <-m.quit:
	}
	m.hints, m.deaf = nil, true
	return errDeaf
}

// fileSystem is the kind of file system that fd is on, or 0.
func fileSystem(fd int) uint32 {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return 0
	}
	return uint32(st.Type)
}

// local reports whether only this host changes what is on such a file system:
// not a shared folder or the network (CONTRACT 23).
func local(kind uint32) bool {
	switch kind {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// served reports whether an answer of such a file system comes from somebody
// else: a server or a user's process. inotify is not asked about it: it would
// wait for that answer, and tells of this host's changes only.
func served(kind uint32) bool {
	switch kind {
	case unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.AUTOFS_SUPER_MAGIC, unix.V9FS_MAGIC:
		return true
	}
	return false
}
