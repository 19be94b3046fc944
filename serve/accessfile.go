package serve

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"liege/vassal"
)

// lookEvery is how often the file of the access log is looked after, while
// there is something to write.
const lookEvery = time.Second

// lookAfter makes the file of the log anew when somebody renamed or removed it
// (logrotate), and renames it itself when it is too large (log-maxsize). It is
// called with outMu held, after a write.
func (l *accessLog) lookAfter(now time.Time) {
	if l.file == nil || now.Sub(l.looked) < lookEvery && (l.max <= 0 || l.size < l.max) {
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
		if err := os.Rename(l.path, l.backup(now)); err != nil {
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

// backup is the name that a rotated file gets, as in uWSGI.
func (l *accessLog) backup(now time.Time) string {
	if l.backupName != "" {
		return l.backupName
	}
	return fmt.Sprintf("%s.%d", l.path, now.Unix())
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
