package static

import (
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// recheck is how long an open directory is used before it is looked at again
// under its path: a deployment may have put another one there.
const recheck = time.Second

// root is one directory (or, for static-map, file) named in the
// configuration. It is kept open, and opened anew when its path leads to
// another one.
type root struct {
	path string
	now  atomic.Pointer[opened]
	mu   sync.Mutex // one goroutine looks
}

// opened is a root at one moment. Its descriptor is closed by the garbage
// collector once no request uses it.
type opened struct {
	f        *os.File // O_PATH
	real     string   // the path without symbolic links
	file     bool     // a regular file
	dev, ino uint64
	at       time.Time
}

func newRoot(path string) *root { return &root{path: path} }

// open returns the root as it is now, or was a second ago.
func (r *root) open() (*opened, error) {
	o := r.now.Load()
	if o != nil && time.Since(o.at) < recheck {
		return o, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o = r.now.Load(); o != nil && time.Since(o.at) < recheck {
		return o, nil
	}
	n, err := openRoot(r.path)
	if err != nil {
		r.now.Store(nil)
		return nil, err
	}
	if o != nil && o.dev == n.dev && o.ino == n.ino && o.real == n.real {
		_ = n.f.Close() // O_PATH: nothing to lose
		n.f = o.f
	}
	r.now.Store(n)
	return n, nil
}

func openRoot(path string) (*opened, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	o := &opened{f: os.NewFile(uintptr(fd), path), at: time.Now()}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		o.f.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if o.real, err = os.Readlink(procPath(o.f)); err != nil {
		o.real = path // no /proc: links out of a directory are refused then
	}
	o.file = st.Mode&unix.S_IFMT == unix.S_IFREG
	o.dev, o.ino = st.Dev, st.Ino
	return o, nil
}

// procPath is the path of the link to an open file.
func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
