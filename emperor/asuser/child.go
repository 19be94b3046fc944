package asuser

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser/become"
)

// channel is the child's only descriptor besides /dev/null.
const channel = 3

// Main does nothing, unless this process is a child that Start made: then it
// serves the session and never returns. A main calls it first of all.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != title {
		return
	}
	if err := become.User(); err != nil {
		os.Exit(1)
	}
	if err := serve(channel); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// serve answers requests until the other end closes.
func serve(fd int) error {
	// Of a user who is no other than the caller: a debugger could run on it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	unix.Umask(0) // modes are exact
	if err := limit(); err != nil {
		return err
	}
	buf := make([]byte, maxPacket)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return err
		}
		var q request
		if err := json.Unmarshal(buf[:n], &q); err != nil {
			return err
		}
		if err := answer(fd, q); err != nil {
			return err
		}
	}
}

// limit bounds this process. RLIMIT_AS would not do: Go reserves address space
// that it never uses (KERNEL 5); RLIMIT_DATA counts what can be written.
func limit() error {
	data := dataSize() + MaxMemory
	for res, v := range map[int]uint64{
		unix.RLIMIT_DATA: data, unix.RLIMIT_CPU: MaxCPU, unix.RLIMIT_NOFILE: 64,
		unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: maxText,
	} {
		if err := unix.Setrlimit(res, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return err
		}
	}
	return nil
}

// dataSize is what RLIMIT_DATA counts now, in bytes.
func dataSize() uint64 {
	var data uint64
	b, err := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(b)); err == nil && len(f) > 5 { // size, resident, shared, text, lib, data (proc(5))
		data, err = strconv.ParseUint(f[5], 10, 64)
	}
	if err != nil || data == 0 {
		return MaxMemory
	}
	return data * uint64(os.Getpagesize())
}

// answer does q and sends the reply.
func answer(ch int, q request) error {
	var r reply
	data, f, err := do(q, &r)
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		data, f = nil, nil
		r = reply{Err: err.Error()}
		if no, ok := errors.AsType[syscall.Errno](err); ok {
			r.Errno, r.Err = int(no), ""
		}
		if k, ok := errors.AsType[*whyError](err); ok {
			r.Err = k.why
		}
	}
	r.Data, r.FD = len(data), f != nil
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(ch, head, oob, nil, 0); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), maxPacket)
		if err := unix.Sendmsg(ch, data[:n], nil, nil, 0); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// whyError is an errno with words.
type whyError struct {
	why string
	no  syscall.Errno
}

func (e *whyError) Error() string { return e.why }
func (e *whyError) Unwrap() error { return e.no }

func do(q request, r *reply) (data []byte, f *os.File, err error) {
	if q.Op != "glob" && !filepath.IsAbs(q.Path) {
		return nil, nil, syscall.EINVAL
	}
	switch q.Op {
	case "open":
		f, err = open(q.Path, unix.O_PATH, 0)
		return nil, f, err
	case "read":
		data, r.Info, err = readFile(q.Path, q.Max)
		return data, nil, err
	case "stat":
		r.Info, err = stat(os.Stat(q.Path))
		return nil, nil, err
	case "lstat":
		r.Info, err = stat(os.Lstat(q.Path))
		return nil, nil, err
	case "readlink":
		r.Real, err = os.Readlink(q.Path)
		return nil, nil, err
	case "glob":
		data, err = glob(q.Path)
		return data, nil, err
	case "listen":
		f, err = Bind(q.Path, Rules{Mode: q.Mode, Backlog: q.Backlog, UID: -1, GID: q.GID, Owners: []int{0, os.Getuid()}, Context: q.Context})
		return nil, f, err
	case "unlink":
		return nil, nil, Remove(q.Path, q.Dev, q.Ino)
	case "write":
		return nil, nil, inDir(q.Path, func(d *os.File, base string) error { return WriteIn(d, base, q.Text, q.Mode) })
	case "remove":
		return nil, nil, inDir(q.Path, func(d *os.File, base string) error { return RemoveTextIn(d, base, q.Text) })
	case "readable":
		f, err = open(q.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return nil, f, err
	case "log":
		f, err = open(q.Path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, q.Mode.Perm())
		return nil, f, err
	}
	return nil, nil, syscall.ENOSYS
}

// open opens path through links but no magic ones.
func open(path string, flags uint64, mode fs.FileMode) (*os.File, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func readFile(path string, max int) ([]byte, *info, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, nil, &whyError{"not a regular file", syscall.EINVAL}
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return nil, nil, err
	}
	if len(b) > max {
		return nil, nil, &whyError{"the file is too large", syscall.EFBIG}
	}
	i, err := stat(st, nil)
	return b, i, err
}

func stat(st fs.FileInfo, err error) (*info, error) {
	if err != nil {
		return nil, err
	}
	i := &info{S: st.Size(), M: st.Mode(), T: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		i.U, i.G, i.D, i.I = sys.Uid, sys.Gid, sys.Dev, sys.Ino
	}
	return i, nil
}

func glob(pattern string) ([]byte, error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, &whyError{err.Error(), syscall.EINVAL}
	}
	if len(names) > MaxGlob {
		return nil, &whyError{"the pattern matches too many files", syscall.E2BIG}
	}
	b, err := json.Marshal(names)
	if err == nil && len(b) > MaxRead {
		return nil, &whyError{"the pattern matches too many files", syscall.E2BIG}
	}
	return b, err
}
