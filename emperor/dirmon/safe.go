package dirmon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/inifile"
	"liege/vassal/regular"
)

// ReadSafe reads a regular file of at most limit bytes that an operator's file
// names, as root, and returns its mode as well. Links are followed by the rule
// of vassal files (CONTRACT 1): every directory and link on the way is root's
// or the file's owner's, so that nobody is handed a file of somebody else's by
// a link of his own.
func ReadSafe(path string, limit int) ([]byte, os.FileMode, error) {
	f, mode, err := OpenSafe(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	b, err := readAgain(int(f.Fd()), limit)
	return b, mode, err
}

// OpenSafe opens the file (O_PATH) if it may be read by the rule of ReadSafe.
func OpenSafe(path string) (*os.File, os.FileMode, error) {
	w := walker{root: "/", primary: primaryGroup}
	p, err := w.start()
	if err != nil {
		return nil, 0, err
	}
	defer p.close()
	fd, st, err := w.walk(p, path)
	if err != nil {
		return nil, 0, &reasonError{err}
	}
	if fd < 0 {
		return nil, 0, errors.New("is a directory, not a file")
	}
	f := os.NewFile(uintptr(fd), path)
	if err := w.safe(fd, &st, p.trail); err != nil {
		f.Close()
		return nil, 0, &untrusted{err}
	}
	return f, os.FileMode(st.Mode & 0o777), nil
}

// reasonError is an error in plain words.
type reasonError struct{ err error }

func (e *reasonError) Error() string { return reason(e.err) }
func (e *reasonError) Unwrap() error { return e.err }

// untrusted is an error that says why a file may not be read.
type untrusted struct{ error }

func (*untrusted) Is(target error) bool { return target == inifile.ErrUntrusted }

// Host is an inifile.OSHost for the files that operators' files name (include,
// @(…), for-readline): it reads by the rule of ReadSafe. Who owns a directory on
// the way could else lead root with a link to a file of root's that holds another's
// words, a log, or another's secrets.
type Host struct{ *inifile.OSHost }

// ReadFile implements inifile.Host.
func (Host) ReadFile(path string) (inifile.HostFile, error) {
	f, _, err := OpenSafe(path)
	if err != nil {
		return inifile.HostFile{}, err
	}
	defer f.Close()
	return inifile.ReadOpen(f)
}

// Judge says why an Emperor with these sources would not read the vassal file at
// path, which is absolute (CONTRACT 1); nil where it would, where no source names
// the path, and where the caller cannot tell.
func Judge(path string, sources []string, tyrant bool) *vassal.Problem {
	if !Named(path, sources) {
		return nil
	}
	w := walker{root: "/", primary: primaryGroup}
	d, err := w.dir(filepath.Dir(path))
	if err != nil {
		return nil // a file that was just read: it is the caller who may not look
	}
	defer d.close()
	f, gone := w.look(d, filepath.Base(path), path, tyrant)
	defer f.close()
	if gone {
		return nil
	}
	return f.prob
}

// Shared says why no Emperor would read the open file of path, in whatever directory
// it is, if that is that others than its owner can write it (CONTRACT 1); else nil.
func Shared(f *os.File, path string) *vassal.Problem {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return problem(path, vassal.CodeUnreadable, reason(err), "")
	}
	w := walker{primary: primaryGroup}
	return w.shared(int(f.Fd()), &st, path)
}

// safe is what judge says, in short, but for the hard links: a backup makes
// them, and nobody can with what is not his (fs.protected_hardlinks).
func (w *walker) safe(fd int, st *unix.Stat_t, t trail) error {
	if k := typeName(st.Mode); k != "" {
		return errors.New("is " + k + ", not a file")
	}
	if err := regular.OnDisk(fd); err != nil {
		return errors.New(reason(err))
	}
	switch {
	case w.othersWrite(fd, st):
		return fmt.Errorf("mode %04o: others than its owner can write it", st.Mode&0o7777)
	case t.loose != "":
		return fmt.Errorf("others can put another file in its place: %s can be written by them", clean(t.loose))
	case t.mixed || t.owner != 0 && t.owner != st.Uid:
		return fmt.Errorf("belongs to %s, but %s owns a directory or link on the way to it", userName(st.Uid), userName(t.owner))
	case st.Uid == 0 && t.shared:
		return errors.New("belongs to root, but others can move files into its directory")
	}
	return nil
}

// readAgain reads the regular file behind an O_PATH descriptor.
func readAgain(fd, limit int) ([]byte, error) {
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.New(reason(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > limit:
		return nil, fmt.Errorf("has more than %d bytes", limit)
	}
	return b, nil
}

// ListSafe lists the names in the directory at path, at most limit of them, in
// order. The files are still to be read by ReadSafe.
func ListSafe(path string, limit int) ([]string, error) {
	w := walker{root: "/", primary: primaryGroup}
	p, err := w.dir(path)
	if err != nil {
		return nil, fmt.Errorf("%s", reason(err))
	}
	defer p.close()
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(p.fd))
	if err != nil {
		return nil, errors.New(reason(err))
	}
	defer f.Close()
	names, err := f.Readdirnames(limit + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case len(names) > limit:
		return nil, fmt.Errorf("holds more than %d files", limit)
	}
	slices.Sort(names)
	return names, nil
}
