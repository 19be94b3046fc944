package serve

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// lookEvery is how often the file of the access log is looked after at most,
// while there is something to write.
const lookEvery = time.Second

// lookAfter makes the file of the log anew when somebody renamed or removed it
// (logrotate), and renames it itself when it is too large (log-maxsize). It is
// called with outMu held, after a write.
func (l *accessLog) lookAfter(now time.Time) {
	if l.file == nil || now.Sub(l.looked) < lookEvery {
		return
	}
	l.looked = now
	own, err := l.file.Stat()
	if err != nil || !own.Mode().IsRegular() {
		return
	}
	l.size = own.Size()
	named, err := os.Stat(l.path)
	same := err == nil && os.SameFile(own, named)
	if same && (l.max <= 0 || l.size < l.max) {
		return
	}
	if same {
		if err := l.putAside(now); err != nil {
			l.max = 0 // once: the next would fail too
			_, _ = fmt.Fprintf(l.fallback, "access log: rotate: %v; it grows from now on\n", err)
			return
		}
	}
	if err := l.open(); err != nil {
		_, _ = fmt.Fprintf(l.fallback, "access log: %v\n", err)
	}
}

// note is the problem that the file could not be opened, if that is so: the
// lines go to the vassal's log instead.
func (l *accessLog) note(at vassal.Origin) vassal.Problems {
	if l.unopened == nil {
		return nil
	}
	return vassal.Problems{{Severity: vassal.Warning, Code: vassal.CodeNotVisible, File: at.File, Line: at.Line, Key: "req-logger", Step: "serve",
		Message: fmt.Sprintf("%v: the lines go to the vassal's log", l.unopened), Hint: "a directory that the app's user may write to"}}
}

// maxNames bounds how many names for a rotated file are tried.
const maxNames = 100

// putAside renames the file to the name that uWSGI gives it or, where there is
// one of that name, to one with the time or a number behind: the lines in that
// one may be another generation's, of this second.
func (l *accessLog) putAside(now time.Time) error {
	stem := l.backupName
	if stem == "" {
		stem = l.path
	}
	stamped := fmt.Sprintf("%s.%d", stem, now.Unix())
	name := l.backupName
	if name == "" {
		name = stamped
	}
	for i := range maxNames {
		err := renameNew(l.path, name)
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		if name = stamped; i > 0 || l.backupName == "" {
			name = fmt.Sprintf("%s.%d", stamped, i+1)
		}
	}
	return fmt.Errorf("%s and %d more names are taken", stamped, maxNames-1)
}

// renameNew renames a file to a name that nothing has.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that cannot
		if err = unix.EEXIST; missing(to) {
			return os.Rename(from, to)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// open opens the file of the log, with outMu held.
func (l *accessLog) open() error {
	// O_NONBLOCK: a FIFO that nobody reads is an error, not a wait.
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // O_APPEND, unbuffered: nothing to lose
	}
	l.file, l.out, l.size = f, f, 0
	if st, err := f.Stat(); err == nil {
		l.size = st.Size()
	}
	return nil
}
