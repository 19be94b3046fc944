// Package beneath opens files that a request names below directories that the
// configuration names, and nowhere else.
//
// A file is opened once, with openat2(2) and RESOLVE_BENEATH, and is a
// descriptor from then on: no path is checked and then used. A symbolic link
// may lead anywhere inside its directory, and out of it only into another one
// that the caller calls safe. No magic link of /proc is followed.
package beneath

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Recheck is how long an open directory is used before it is looked at again
// under its path: a deployment may have put another one there.
const Recheck = time.Second

// Root is one directory, or file, that the configuration names. It is kept
// open, and opened anew when its path leads to another one. It is safe for
// concurrent use.
type Root struct {
	path string
	now  atomic.Pointer[Dir]
	mu   sync.Mutex // one goroutine looks
}

// New returns the directory or file at path, which need not exist yet. It
// opens nothing.
func New(path string) *Root { return &Root{path: path} }

// Path is the path of the configuration.
func (r *Root) Path() string { return r.path }

// Dir is a Root at one moment. Its descriptor is closed by the garbage
// collector once no request uses it, or by Close.
type Dir struct {
	f        *os.File // O_PATH
	path     string   // as in the configuration
	real     string   // the path without symbolic links
	file     bool     // a regular file
	dev, ino uint64
	at       time.Time
}

// Open returns the root as it is now, or was a second ago.
func (r *Root) Open() (*Dir, error) {
	o := r.now.Load()
	if o != nil && time.Since(o.at) < Recheck {
		return o, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o = r.now.Load(); o != nil && time.Since(o.at) < Recheck {
		return o, nil
	}
	n, err := Open(r.path)
	if err != nil {
		r.now.Store(nil)
		return nil, err
	}
	if o != nil && o.dev == n.dev && o.ino == n.ino && o.real == n.real {
		n.Close()
		n.f = o.f
	}
	r.now.Store(n)
	return n, nil
}

// Forget makes the next Open look at once.
func (r *Root) Forget() {
	if o := r.now.Load(); o != nil {
		old := *o
		old.at = time.Time{}
		r.now.Store(&old)
	}
}

// Close closes what is open. Nobody may use the root meanwhile.
func (r *Root) Close() {
	if d := r.now.Swap(nil); d != nil {
		d.Close()
	}
}

// Open opens the directory or file at path, for one use.
func Open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := &Dir{f: os.NewFile(uintptr(fd), path), path: path, at: time.Now()}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if d.real, err = os.Readlink(ProcPath(fd)); err != nil {
		d.real = path // no /proc: links out of a directory are refused then
	}
	d.file = st.Mode&unix.S_IFMT == unix.S_IFREG
	d.dev, d.ino = st.Dev, st.Ino
	return d, nil
}

// Close closes a Dir that was opened for one use.
func (d *Dir) Close() { _ = d.f.Close() } // O_PATH: nothing to lose

// Path is the path of the configuration, Real the one without symbolic links.
func (d *Dir) Path() string { return d.path }

// Real is the path without symbolic links.
func (d *Dir) Real() string { return d.real }

// IsFile reports whether it is a regular file and no directory.
func (d *Dir) IsFile() bool { return d.file }

// Reopen opens what d is, if it is a file.
func (d *Dir) Reopen(flags int) (int, error) {
	return unix.Open(ProcPath(int(d.f.Fd())), flags|unix.O_CLOEXEC, 0)
}

// Holds reports whether the absolute path name, taken as text, is the root or
// lies below it under the path of the configuration or the one that it leads
// to, and returns the rest. An error says that the root cannot be opened.
func (r *Root) Holds(name string) (rest string, ok bool, err error) {
	if rest, ok = Below(name, r.path); ok {
		return rest, true, nil
	}
	d, err := r.Open()
	if err != nil {
		return "", false, err
	}
	rest, ok = Below(name, d.real)
	return rest, ok, nil
}

// Missing reports whether err says that there is no such file, or none that may
// be opened here. Any other error, such as want of descriptors (EMFILE, ENFILE)
// or of memory, a disk or a server that does not answer, says nothing about the
// file: who took it for absence would let a request pass on to what answers
// where there is none.
func Missing(err error) bool {
	for _, e := range [...]error{fs.ErrNotExist, fs.ErrPermission, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ENAMETOOLONG,
		unix.ENXIO, unix.ENODEV} { // the last two: a socket, a device without a driver
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Below cuts dir from the front of name, at the border of a segment.
func Below(name, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, strings.TrimSuffix(dir, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}

// ProcPath is the path of the link to an open file.
func ProcPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// File opens rel, a path without a leading slash, below d. linked reports that
// a symbolic link was followed on the way: then real is where it led, without
// one. Out of d a link may lead into one of safe only.
func (d *Dir) File(rel string, flags int, safe []*Root) (fd int, real string, err error) {
	fd, err = d.in(rel, flags, unix.RESOLVE_NO_SYMLINKS)
	if !errors.Is(err, unix.ELOOP) {
		return fd, "", err
	}
	if fd, err = d.in(rel, flags, 0); errors.Is(err, unix.EXDEV) {
		fd, err = d.elsewhere(rel, flags, safe)
	}
	if err != nil {
		return -1, "", err
	}
	if real, err = os.Readlink(ProcPath(fd)); err != nil {
		_ = unix.Close(fd) // nothing was written to it
		return -1, "", err
	}
	return fd, real, nil
}

// in is openat2(2) that never leaves d.
func (d *Dir) in(rel string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | resolve}
	for {
		fd, err := unix.Openat2(int(d.f.Fd()), rel, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename raced with ".."
			return fd, err
		}
	}
}

// elsewhere opens a path that a link leads out of its directory: where it
// ends is looked up with a descriptor that can read nothing (O_PATH), and
// must be below a safe directory; beneath that the file is opened anew,
// without following any link. So a link that is exchanged meanwhile wins
// nothing.
func (d *Dir) elsewhere(rel string, flags int, safe []*Root) (int, error) {
	fd, err := unix.Openat2(int(d.f.Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1, err
	}
	real, err := os.Readlink(ProcPath(fd))
	_ = unix.Close(fd) // O_PATH: nothing to lose
	if err != nil {
		return -1, err
	}
	for _, root := range safe {
		o, err := root.Open()
		if err != nil && !Missing(err) {
			return -1, err
		}
		if err != nil || o.file {
			continue
		}
		rest, ok := Below(real, o.real)
		if rest = strings.Trim(rest, "/"); !ok {
			continue
		}
		if rest == "" {
			rest = "."
		}
		if fd, err := o.in(rest, flags, unix.RESOLVE_NO_SYMLINKS); err == nil || !Missing(err) {
			return fd, err
		}
	}
	return -1, fs.ErrPermission
}
